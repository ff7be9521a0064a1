"""Versions of torch and DeepSpeed, the code's commit, the locale, and what a run imports."""

import importlib
import locale
import os
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement

from rwp_dist.doctor.finding import Check, Finding, from_error, ok, problem, warning
from rwp_dist.doctor.machine import Machine
from rwp_dist.process.commands import lack_behind
from rwp_dist.record.code import commit_here


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
        if lack := lack_behind(error):
            yield from_error("imports", lack)
            return
        text = " ".join(str(error).split())[:300]
        cure = "install this project's requirements again: python -m pip install -e ."
        yield problem("imports", f"a run cannot start ({type(error).__name__}: {text})", cure)
        return
    cuda = torch.version.cuda
    yield ok("torch's build", f"CUDA {cuda}" if cuda else "without CUDA", cuda=cuda)


def commit(machine: Machine) -> Iterator[Finding]:
    """Runs write down which commit they were trained with."""
    known = commit_here()
    if known["commit"] is None:
        cure = "start runs from a git checkout, or install by pip install git+URL, to have it known"
        yield warning("commit", f"not known: {known['unknown']}", cure)
        return
    changed = {True: ", with changes", False: "", None: ""}[known["dirty"]]
    yield ok("commit", f"{known['commit'][:12]}{changed}", **known)


def encoding(machine: Machine) -> Iterator[Finding]:
    """Text and names of files are UTF-8 here, whatever the locale says; elsewhere they may not."""
    name = locale.nl_langinfo(locale.CODESET)
    if name in ("UTF-8", "ANSI_X3.4-1968"):  # the second: no locale is set
        yield ok("locale", name if name == "UTF-8" else "none: UTF-8")
        return
    seen = f"{name}, though files and their names are UTF-8 here"
    yield warning("locale", seen, "set LC_ALL=C.UTF-8, or other programs may show them otherwise")


CHECKS = (
    Check("software", "versions", versions),
    Check("software", "commit", commit),
    Check("software", "locale", encoding),
    Check("software", "imports", modules, 180.0),
)
