"""torch and DeepSpeed: versions that this project supports, and a run's modules can be imported."""

import importlib
import os
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement

from rwp_dist.doctor.finding import Check, Finding, ok, problem
from rwp_dist.doctor.machine import Machine


def versions(machine: Machine) -> Iterator[Finding]:
    """torch and DeepSpeed are installed in a version that the project requires."""
    for needed in map(Requirement, metadata.requires("rwp-dist") or ()):
        if needed.name not in ("torch", "deepspeed"):
            continue
        cure = f"install it: python -m pip install '{needed}'"
        try:
            version = metadata.version(needed.name)
        except metadata.PackageNotFoundError:
            yield problem(needed.name, f"not installed, {needed} needed", cure)
            continue
        if needed.specifier.contains(version, prereleases=True):
            yield ok(needed.name, version)
        else:
            yield problem(needed.name, f"{version}, {needed} needed", cure)


def modules(machine: Machine) -> Iterator[Finding]:
    """What a run imports can be imported: DeepSpeed, for one, looks for devices meanwhile."""
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if machine.on_gpus else "cpu")
    try:
        torch = importlib.import_module("torch")
        importlib.import_module("rwp_dist.run.build")
    except Exception as error:  # of many kinds: a broken library raises what it likes
        text = " ".join(str(error).split())[:300]
        cure = "install this project's requirements again: python -m pip install -e ."
        yield problem("imports", f"a run cannot start ({type(error).__name__}: {text})", cure)
        return
    cuda = torch.version.cuda
    yield ok("torch's build", f"CUDA {cuda}" if cuda else "without CUDA", cuda=cuda)


CHECKS = (
    Check("software", "versions", versions),
    Check("software", "imports", modules, 180.0),
)
