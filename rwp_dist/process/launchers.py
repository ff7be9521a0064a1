"""Which of the variables that launchers set are meant for this process. Imports no torch.

A launcher's variables outlive it: a login shell, a notebook or an interactive step of Slurm hands
them on to whatever is started there.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from rwp_dist.base.errors import ConfigError
from rwp_dist.process import torchrun

NO_TASKS = 0xFFFFFFF0
"""Slurm's ids of steps from here on are no steps of tasks, such as 0xfffffffb, the batch script."""

INTERACTIVE = 0xFFFFFFFA
"""Slurm's id of the step that is a shell, as ``salloc`` opens it."""

MPI = (
    ("mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),  # Open MPI
    ("mpirun", "PMI_RANK", "PMI_SIZE"),  # MPICH, Intel MPI, Cray
    ("mpirun", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),  # MVAPICH
    ("jsrun", "JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE"),
)

OF_TORCHRUN = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK"),
    *("MASTER_ADDR", "MASTER_PORT"),
)

OF_MPI = (
    *("OMPI_COMM_WORLD_", "PMI_", "PMIX_", "MV2_COMM_WORLD_", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    "JSM_NAMESPACE_",
)
"""How the variables of ``mpirun`` and ``jsrun`` begin."""

OF_SRUN = ("SLURM_STEP", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS")
"""How the variables begin that make a process a task of ``srun``."""

HOW = (
    "start it with `rwp-launch submit` on a cluster, with `rwp-launch run --nproc=N` on this "
    "machine, or as one torchrun a node (torchrun ... -m rwp_dist train ...)"
)


@dataclass(frozen=True)
class Task:
    """One of several processes that a launcher which is not torchrun has started together."""

    variable: str
    """Environment variable that says how many there are."""

    launcher: str
    number: int
    count: int


def task() -> Task | None:
    """The task of ``srun`` or ``mpirun`` that this process is; None if it is not one of several."""
    found = _slurm_task()
    if found is not None:
        return found
    # Slurm sets PMI_* in its shells too. What mpirun starts from there has one more variable.
    slurms = _in_slurm_shell() and "MPI_LOCALRANKID" not in os.environ
    for launcher, own, all_ in MPI:
        number, count = torchrun.number(own), torchrun.number(all_)
        if own == "PMI_RANK" and slurms:
            continue
        if number is not None and count is not None and number < count and count > 1:
            return Task(all_, launcher, number, count)
    return None


def in_slurm_step() -> bool:
    """Whether ``srun`` has started this process; not if it is in a job's script or a shell."""
    step = torchrun.number("SLURM_STEP_ID")
    return step is not None and step < NO_TASKS and not _in_slurm_shell()


def _in_slurm_shell() -> bool:
    """Whether this is a shell that ``salloc`` or ``srun --pty bash`` has opened."""
    # What srun starts from the shell of `srun --pty bash` has no terminal.
    terminal = "SLURM_PTY_PORT" in os.environ and _has_terminal()
    return terminal or torchrun.number("SLURM_STEP_ID") == INTERACTIVE


def _slurm_task() -> Task | None:
    if "SLURM_JOB_ID" in os.environ and not in_slurm_step():
        return None
    # srun leaves SLURM_NTASKS of the job as it is where a step has fewer.
    name = "SLURM_STEP_NUM_TASKS"
    name = name if torchrun.number(name) is not None else "SLURM_NTASKS"
    number, count = torchrun.number("SLURM_PROCID"), torchrun.number(name)
    if number is None or count is None or count < 2 or number >= count:
        return None
    return Task(name, "srun", number, count)


def _has_terminal() -> bool:
    with suppress(AttributeError, ValueError):  # no stdin, or a closed one
        return sys.stdin.isatty()
    return False


def check_tasks() -> None:
    """Refuse to be one of several tasks that do not know of each other: each would train it all.

    Raises:
        ConfigError: srun or mpirun has started several, or a variable says so.
    """
    found = None if torchrun.by_torchrun() else task()
    if found is None:
        return
    raise ConfigError(
        f"this is task {found.number} of {found.count} that {found.launcher} has started, and "
        "they do not know of each other",
        key=found.variable,
        cure=f"{HOW}; if it is left over from something else, unset {found.variable}",
    )


def check_ranks() -> None:
    """Refuse variables of torchrun that no launcher can have meant.

    Raises:
        ConfigError: they are no numbers, or do not fit each other.
    """
    rank, size = (os.environ.get(name, "").strip() for name in ("RANK", "WORLD_SIZE"))
    if rank and size and not torchrun.by_torchrun():
        raise ConfigError(
            f"RANK={rank!r:.40} of WORLD_SIZE={size!r:.40} is no rank",
            key="RANK",
            cure="unset RANK WORLD_SIZE, or start it with torchrun, which sets them",
        )


def leftovers() -> Iterator[str]:
    """What something else has left in this shell, each as a sentence without its full stop."""
    rank, size = (os.environ.get(name, "").strip() for name in ("RANK", "WORLD_SIZE"))
    if bool(rank) != bool(size):
        is_set, missing = ("RANK", "WORLD_SIZE") if rank else ("WORLD_SIZE", "RANK")
        value = os.environ[is_set]
        yield f"{is_set}={value} is left over ({missing} is not set) and not used"
    elif not rank and torchrun.number("LOCAL_RANK"):
        value = os.environ["LOCAL_RANK"]
        yield f"LOCAL_RANK={value} is left over (RANK is not set) and not used"


def adopt_variables() -> None:
    """Make the environment say to libraries what ``torchrun`` says here.

    DeepSpeed wants LOCAL_RANK, and equal to Open MPI's where there is one, even if that is of an
    ``mpirun`` which has started agents and not ranks.
    """
    own = {"LOCAL_RANK": torchrun.local_rank(), "LOCAL_WORLD_SIZE": torchrun.ranks_here()}
    for name in list(os.environ):
        alone = not torchrun.by_torchrun() and name in OF_TORCHRUN
        if alone or name.startswith(OF_MPI):
            del os.environ[name]
    os.environ |= {name: str(value) for name, value in own.items()}


def forget_ranks() -> None:
    """Remove what would tell this process, and those that it starts, to be ranks.

    For a launcher, which starts ranks of its own. Without ``PET_*`` too, which Kubernetes' training
    operator sets: they stand for torchrun's arguments, such as the number of nodes.
    """
    for name in list(os.environ):
        if name in OF_TORCHRUN or name.startswith(("TORCHELASTIC_", "PET_")):
            del os.environ[name]


def without_tasks(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which no process is a task of ``srun`` or ``mpirun``.

    For a run in the background: what is left over in the shell would have it refused there, where
    nobody looks.
    """
    return {k: v for k, v in environment.items() if not k.startswith((*OF_MPI, *OF_SRUN))}
