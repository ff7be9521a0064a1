"""What DeepSpeed compiles its CPU collective with when a run starts for the first time."""

import importlib.util
import os
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rwp_dist.doctor.case import Case
from rwp_dist.doctor.finding import Finding, State

GROUP = "compiler"

PROGRAM = "#include <Python.h>\n#include <omp.h>\nint answer() { return omp_get_max_threads(); }\n"
"""What the collective needs of a compiler: Python's headers and OpenMP."""

COMPILE_S = 60.0


def collective(case: Case) -> Iterator[Finding]:
    """Compiler, headers, ninja and a place for what they make; on GPUs it is not compiled."""
    built = _built_in()
    if built is not None:
        yield Finding(GROUP, "C++ compiler", "ok", f"not needed: {built.name} is built in")
        return
    state: State = "warning" if case.on_gpus else "problem"
    use = (
        "ranks on GPUs start without it, but no operator can be compiled"
        if case.on_gpus
        else "DeepSpeed compiles its collective with it"
    )
    yield from _compiler(state, use)
    yield from _ninja(state, use)
    yield from _folder(state)


def _compiler(state: State, use: str) -> Iterator[Finding]:
    command = shlex.split(os.environ.get("CXX", "c++")) or ["c++"]
    name = "C++ compiler"
    if shutil.which(command[0]) is None:
        yield Finding(
            GROUP,
            name,
            state,
            f"there is no {command[0]}; {use}",
            "Install one (Debian and Ubuntu: apt install g++; clusters: module load gcc), or set "
            "CXX to yours.",
        )
        return
    with tempfile.TemporaryDirectory(prefix="rwp-doctor-") as folder:
        source = Path(folder) / "answer.cpp"
        source.write_text(PROGRAM)
        headers = sysconfig.get_paths()["include"]
        options = ["-shared", "-fPIC", "-fopenmp", f"-I{headers}", str(source)]
        done = subprocess.run(
            [*command, *options, "-o", f"{folder}/answer.so"],
            capture_output=True,
            text=True,
            timeout=COMPILE_S,
            errors="replace",
        )
    if done.returncode == 0:
        yield Finding(GROUP, name, "ok", f"{shutil.which(command[0])}, with Python.h and OpenMP")
        return
    lines = [line for line in done.stderr.splitlines() if "error" in line] or ["no message"]
    missing = "Python.h" in done.stderr
    yield Finding(
        GROUP,
        name,
        state,
        f"{command[0]} cannot compile what DeepSpeed needs ({lines[0].strip()[-160:]})",
        "Install Python's headers (Debian and Ubuntu: apt install python3-dev)."
        if missing
        else "Install a whole g++ with OpenMP, or set CXX to one.",
    )


def _ninja(state: State, use: str) -> Iterator[Finding]:
    try:
        done = subprocess.run(["ninja", "--version"], capture_output=True, text=True, timeout=20)
        version = done.stdout.strip() if done.returncode == 0 else None
    except OSError:
        version = None
    if version:
        yield Finding(GROUP, "ninja", "ok", version)
    else:
        yield Finding(
            GROUP,
            "ninja",
            state,
            f"not on the PATH; {use}",
            "Activate the environment that holds it (. .venv/bin/activate), or pip install ninja.",
        )


def _folder(state: State) -> Iterator[Finding]:
    """Where torch puts what it compiles; a user without a home has no such place."""
    told = os.environ.get("TORCH_EXTENSIONS_DIR")
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(told) if told else Path(home).expanduser() / "torch_extensions"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        yield Finding(
            GROUP,
            "build folder",
            state,
            f"{folder} cannot be written to ({error.strerror})",
            "Set TORCH_EXTENSIONS_DIR to a folder of yours on a local disk.",
        )
    else:
        yield Finding(GROUP, "build folder", "ok", str(folder))


def _built_in() -> Path | None:
    """The collective, where DeepSpeed was installed with it (``DS_BUILD_SHM_COMM=1``)."""
    spec = importlib.util.find_spec("deepspeed")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "ops" / "comm"
    return next(folder.glob("deepspeed_shm_comm_op*.so"), None)
