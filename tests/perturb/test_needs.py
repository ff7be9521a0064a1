"""The library needs torch and numpy alone: it trains where nothing else is installed."""

import subprocess
import venv
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from support.until import HANG_S

ROOT = Path(__file__).parents[2]
LOOP = """
import sys
import torch
from torch.nn import functional as F
from rwp_dist.perturb import METHODS, Perturbed

x, y = torch.randn(8, 4), torch.randint(2, (8,))
for name in METHODS:
    layers = torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 2)
    model = torch.nn.Sequential(*layers)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    strength = METHODS[name].strength
    options = {strength: 0.1} if strength else {}
    noisy = Perturbed(model, name, micro_batches=2, **options)
    for step in range(2):
        for micro_batch in range(2):
            with noisy(step, micro_batch, loss=lambda: F.cross_entropy(model(x), y)):
                (noisy.weight * F.cross_entropy(model(x), y)).backward()
        optimizer.step()
        optimizer.zero_grad()
        noisy.end_step()
    noisy.close()
    if name in ("sam", "asam"):
        continue
    noisy = Perturbed(model, name, **options).attach(optimizer, micro_batches=2)
    for _ in range(2):
        for _ in range(2):
            (F.cross_entropy(model(x), y) / 2).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert noisy.stats()["steps"] == 2
try:
    import deepspeed
except ModuleNotFoundError:
    print("trained without DeepSpeed")
"""


def closure(*names: str) -> set[str]:
    """Installed distributions that these need, themselves included."""
    found: set[str] = set()
    left = list(names)
    while left:
        name = left.pop().lower().replace("_", "-")
        if name in found:
            continue
        found.add(name)
        for text in metadata.requires(name) or []:
            need = Requirement(text)
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                left.append(need.name)
    return found


def test_every_method_trains_in_a_virtual_environment_of_torch_and_numpy(tmp_path: Path) -> None:
    """It is filled with links, because no test downloads torch."""
    needed = closure("torch", "numpy")
    assert not {"deepspeed", "torchvision", "pydantic", "click"} & needed
    venv.create(tmp_path, symlinks=True)
    [packages] = tmp_path.glob("lib/python*/site-packages")
    for name in needed:
        distribution = metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
            link = packages / top
            if not link.exists():
                link.symlink_to(distribution.locate_file(top))
    (packages / "rwp_dist").symlink_to(ROOT / "rwp_dist")
    command = [tmp_path / "bin" / "python", "-I", "-c", LOOP]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "trained without DeepSpeed\n"
