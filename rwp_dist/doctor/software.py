"""Python and the packages that a run needs, against what this project requires."""

import os
import platform
import sys
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement

from rwp_dist.doctor.case import Case
from rwp_dist.doctor.finding import Finding

GROUP = "software"
PROJECT = "rwp-dist"

SHOWN = ("torch", "torchvision", "deepspeed", "webdataset", "wandb")
"""Packages with a line of their own; the others share one."""


def python(case: Case) -> Iterator[Finding]:
    """The interpreter."""
    wanted = metadata.metadata(PROJECT)["Requires-Python"]
    version = platform.python_version()
    good = Requirement(f"python{wanted}").specifier.contains(version, prereleases=True)
    yield Finding(
        GROUP,
        "Python",
        "ok" if good else "problem",
        f"{version} in {sys.prefix}",
        "" if good else f"Make the environment with a Python {wanted}.",
    )


def packages(case: Case) -> Iterator[Finding]:
    """Every required package is installed, in a version that will do."""
    lines = metadata.requires(PROJECT) or []
    required = [Requirement(line) for line in lines]
    required = [r for r in required if r.marker is None or r.marker.evaluate({"extra": ""})]
    fine = 0
    for requirement in required:
        version = _version(requirement.name)
        wanted = f"{requirement.name}{requirement.specifier}"
        cure = f"Install it: {_pip()} '{wanted}'."
        if version is None:
            yield Finding(
                GROUP, requirement.name, "problem", f"not installed, {wanted} needed", cure
            )
        elif not requirement.specifier.contains(version, prereleases=True):
            yield Finding(GROUP, requirement.name, "problem", f"{version}, {wanted} needed", cure)
        elif requirement.name in SHOWN:
            yield Finding(GROUP, requirement.name, "ok", version)
        else:
            fine += 1
    yield Finding(GROUP, "other packages", "ok", f"{fine} as required")


def torch(case: Case) -> Iterator[Finding]:
    """torch can be imported, and what of CUDA and NCCL it brings."""
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding(
            GROUP,
            "import torch",
            "problem",
            f"fails ({' '.join(str(error).split())[:200]})",
            f"Install it again: {_pip()} --force-reinstall torch.",
        )
        return
    cuda, nccl = torch.version.cuda, ""
    if cuda and torch.distributed.is_nccl_available():
        nccl = ".".join(map(str, torch.cuda.nccl.version()))
    text = f"CUDA {cuda}, NCCL {nccl or 'missing'}" if cuda else "built without CUDA"
    bad = bool(case.gpus) and not (cuda and nccl)
    yield Finding(
        GROUP,
        "CUDA and NCCL",
        "problem" if bad else "ok",
        text,
        f"Install torch's CUDA build: {_pip()} torch." if bad else "",
        {"cuda": cuda, "nccl": nccl or None},
    )


def deepspeed(case: Case) -> Iterator[Finding]:
    """DeepSpeed can be imported: it looks for compilers and devices while it is."""
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if case.on_gpus else "cpu")
    try:
        import deepspeed  # noqa: F401
    except Exception as error:  # MissingCUDAException, for one, which is no ImportError
        yield Finding(
            GROUP,
            "import deepspeed",
            "problem",
            f"fails ({type(error).__name__}: {' '.join(str(error).split())[:200]})",
            f"Install it again for this torch: DS_BUILD_OPS=0 {_pip()} --force-reinstall "
            "--no-deps deepspeed.",
        )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _pip() -> str:
    return "python -m pip install"
