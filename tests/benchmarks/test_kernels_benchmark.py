"""benchmarks/kernels.py is ready for the day that there is a GPU."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rwp_dist.perturb.normals.philox import PhiloxNormals
from rwp_dist.perturb.normals.triton.fused import FusedEnergy, FusedNoise

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import agreement
import kernels as benchmark

SCRIPT = Path(benchmark.__file__)
CPU = torch.device("cpu")
# What a machine may lack that was only lent: of what is installed here, the script may use these.
BARE = """
import importlib.util, runpy, sys
for name in ("click", "matplotlib", "pydantic", "scipy", "sklearn", "torchvision", "wandb", "yaml"):
    assert importlib.util.find_spec(name), name
    sys.modules[name] = None
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_script(*arguments):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    environment["PYTHONPATH"] = str(SCRIPT.parents[1])
    del environment["TRITON_INTERPRET"]
    return subprocess.run(
        [sys.executable, "-c", BARE, SCRIPT, *arguments],
        env=environment,
        capture_output=True,
        text=True,
    )


def test_without_a_gpu_it_says_so_in_one_sentence_and_fails():
    done = run_script()
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == "There is no CUDA device here, and these are its timings.\n"


def test_interpreted_it_runs_to_its_end_on_torch_triton_and_numpy_alone():
    done = run_script("--dry")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert sum("noise, triton  " in line for line in lines) == 4  # two networks, two types
    assert lines[-1].endswith("these times mean nothing.")


def test_kernels_agree_with_their_references_in_the_interpreter():
    assert agreement.find_difference(CPU, small=True) is None


def other_noise(fill):
    return lambda self, out, step, draw, index: fill(self, out, step, draw + 1, index)


def scaled(fill):
    return lambda self, *args: fill(self, *args).mul_(1.001)


def forgetful(add):
    return lambda self, to, step, draw, *more: add(self, to, 3, draw, *more)


def plain(add):
    return lambda self, to, step, draw, sigma, *adaptive: add(self, to, step, draw, sigma)


def doubled(collect):
    return lambda self, f, grad, factor, sums: collect(self, f, grad, 1.001 * factor, sums)


@pytest.mark.parametrize(
    ("owner", "name", "broken", "sentence"),
    [
        (PhiloxNormals, "fill", other_noise, "noise differs from its reference"),
        (PhiloxNormals, "fill", scaled, "noise differs from its reference"),
        (FusedNoise, "add", forgetful, "is the same in two steps"),
        (FusedNoise, "add", plain, "differ by .* of their noise's deviation"),
        (FusedEnergy, "collect", doubled, "The energy of a gradient .* differs"),
    ],
)
def test_kernels_that_differ_are_not_timed_but_reported(
    owner, name, broken, sentence, monkeypatch, capsys
):
    monkeypatch.setattr(owner, name, broken(getattr(owner, name)))
    monkeypatch.setattr(sys, "argv", ["kernels.py", "--dry"])
    assert benchmark.main() == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert re.search(sentence, err)
