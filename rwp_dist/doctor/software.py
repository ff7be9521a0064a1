"""torch and DeepSpeed: versions that this project supports, and a run's modules can be imported."""

import importlib
import operator
import os
import re
from collections.abc import Iterator
from importlib import metadata

from rwp_dist.doctor.finding import Check, Finding, ok, problem
from rwp_dist.doctor.machine import Machine

COMPARISONS = {">=": operator.ge, "<": operator.lt}


def versions(machine: Machine) -> Iterator[Finding]:
    """torch and DeepSpeed are installed in a version that the project requires."""
    required = metadata.requires("rwp-dist") or []
    for name in ("torch", "deepspeed"):
        wanted = next(line for line in required if re.match(rf"{name}[<>=]", line))
        cure = f"install it: python -m pip install '{wanted}'"
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield problem(name, f"not installed, {wanted} needed", cure)
            continue
        if supported(version, wanted):
            yield ok(name, version)
        else:
            yield problem(name, f"{version}, {wanted} needed", cure)


def supported(version: str, requirement: str) -> bool:
    """Whether ``2.9.1+cu128`` satisfies ``torch>=2.8,<3``; knows ``>=`` and ``<`` alone."""
    bounds = re.findall(r"(>=|<)([\d.]+)", requirement)
    return all(COMPARISONS[sign](_numbers(version), _numbers(bound)) for sign, bound in bounds)


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


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("+")[0])[:3])


CHECKS = (
    Check("software", "versions", versions),
    Check("software", "imports", modules, 180.0),
)
