"""A run imports what it uses, and no more: each rank pays for it at every start."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rwp_dist.shards.digits import write_digits

CONFIG = str(Path(__file__).parents[1] / "configs" / "digits.yaml")

SETTINGS = {"pydantic", "pydantic_core", "annotated_types", "typing_inspection", "yaml"}
USED = SETTINGS | {"PIL", "isal", "psutil"}
"""Packages that a start of training needs besides torch, and what torch imports itself."""

COMMAND = {"click"}
"""Those that the command line needs."""

COMPILER = {"torch._dynamo", "torch._inductor", "sympy", "triton"}
"""What takes longest to import of torch. Only its optimizers, and passes of meta tensors, do."""

IMAGES = {f"PIL.{kind}ImagePlugin" for kind in ("Bmp", "Gif", "Jpeg", "Ppm", "Png")}
"""What Pillow imports before it looks at the first image."""

ADDED = """
import json, sys
import numpy.random, torch
{before}
known = set(sys.modules)
try:
    {code}
finally:
    print(json.dumps(sorted(set(sys.modules) - known)))
"""


def added_by(code: str, *arguments: str, before: str = "") -> set[str]:
    """Modules that code imports besides torch and numpy, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", ADDED.format(code=code, before=before), *arguments],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def packages_of(modules: set[str]) -> set[str]:
    """Those of others."""
    names = {name.partition(".")[0] for name in modules} - sys.stdlib_module_names
    return {name for name in names if not name.startswith("_")} - {"rwp_dist", "torch", "numpy"}


def test_training_is_imported_without_torchs_compiler_and_what_few_runs_use() -> None:
    added = added_by("import rwp_dist.train")
    assert packages_of(added) <= USED
    assert not added & COMPILER


def test_the_library_is_imported_without_torchs_compiler() -> None:
    added = added_by("from rwp_dist.perturb import Perturbed")
    assert packages_of(added) == set()
    assert not added & COMPILER


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_imports_no_package_that_it_does_not_use(tmp_path: Path, workers: int) -> None:
    write_digits(tmp_path / "digits")
    added = added_by(
        "from rwp_dist.__main__ import main; main()",
        *("train", CONFIG, "variant=m-rwp", "schedule.steps=2", f"data.workers={workers}"),
        *(f"data.train={tmp_path}/digits/train", f"data.val={tmp_path}/digits/test"),
        *("run.device=cpu", f"run.dir={tmp_path}/run"),
        before="torch.optim.SGD([torch.zeros(1)])",
    )
    assert "PIL" in packages_of(added) <= USED | COMMAND
    assert {name for name in added if name.endswith("ImagePlugin")} <= IMAGES
