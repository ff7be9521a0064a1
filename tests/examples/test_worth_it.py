"""``examples/worth_it.py`` answers for a training function of one's own."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "examples" / "worth_it.py"
MINE = """
import torch

def train(seed, perturb):
    torch.manual_seed(seed)
    model = torch.nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    perturb(model, optimizer)
    model(torch.randn(8, 4)).sum().backward()
    return float(model.weight.sum())  # tells whether weights are perturbed at present

def forgets(seed, perturb):
    return 1.0
"""


def run(folder: Path, *arguments: str) -> str:
    (folder / "mine.py").write_text(MINE)
    command = [sys.executable, SCRIPT, *arguments, "--seeds", "2"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def test_a_function_is_trained_with_and_without_for_each_seed_and_drawn(tmp_path: Path) -> None:
    lines = run(tmp_path, "--train", "mine:train", "--sigma", "0.5").splitlines()
    for seed in (0, 1):
        without, with_ = (part.split()[-1] for part in lines[seed].split(", "))
        assert without != with_
    assert [line.split()[0] for line in lines[2:]] == ["without", "rwp", "Drawn:"]
    assert (tmp_path / "worth_it.png").read_bytes().startswith(b"\x89PNG")


def test_a_function_that_never_perturbs_is_told_so(tmp_path: Path) -> None:
    assert "never called perturb" in run(tmp_path, "--train", "mine:forgets")


def test_a_function_that_is_not_there_is_said_in_one_sentence(tmp_path: Path) -> None:
    command = [sys.executable, SCRIPT, "--train", "nothere:train"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "name a function as my_script:train" in done.stderr
    assert "Traceback" not in done.stderr
