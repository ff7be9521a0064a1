"""What torchrun tells its ranks in environment variables. Imports no torch.

``RANK`` and ``WORLD_SIZE`` count only together, and only as numbers that fit: a shell or a notebook
may hold one of them from something else. ``launchers`` says what to do about those.
"""

import os
import re
import socket

LOCAL_RANKS = (
    "LOCAL_RANK",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MV2_COMM_WORLD_LOCAL_RANK",
    "MPI_LOCALRANKID",
    "JSM_NAMESPACE_LOCAL_RANK",
    "SLURM_LOCALID",  # the last: on a cluster, mpirun may start its helpers with srun
)
"""Who starts ranks without torchrun may give each its number on the node under another name."""

LOCAL_SIZES = (
    "LOCAL_WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    "MV2_COMM_WORLD_LOCAL_SIZE",
    "MPI_LOCALNRANKS",
    "JSM_NAMESPACE_LOCAL_SIZE",
)
"""The same for how many are on the node; Slurm lists it for all nodes."""

LOOPBACK = ("localhost", "::1")


def number(name: str) -> int | None:
    """The number in an environment variable; None if it holds none."""
    text = os.environ.get(name, "").strip()
    return int(text) if text.isascii() and text.isdigit() else None


def by_torchrun() -> bool:
    """Whether torchrun, or a launcher that sets the same variables, has started this process."""
    rank, size = number("RANK"), number("WORLD_SIZE")
    return rank is not None and size is not None and rank < size


def by_agent() -> bool:
    """Whether it was torchrun itself, whose agent looks after this process."""
    return by_torchrun() and bool(os.environ.get("TORCHELASTIC_RUN_ID"))


def world_size() -> int:
    """Number of ranks; 1 without torchrun."""
    return (number("WORLD_SIZE") or 1) if by_torchrun() else 1


def rank() -> int:
    """Number of this rank; 0 without torchrun."""
    return (number("RANK") or 0) if by_torchrun() else 0


def local_rank() -> int:
    """Number of this rank among those of its node; 0 without torchrun.

    Kubernetes' training operator does not say it: it starts one rank a pod. Of ranks that meet at
    a loopback address, such as ``localhost``, all are here.
    """
    if world_size() == 1:
        return 0
    known = [number(name) for name in LOCAL_RANKS]
    told = next((one for one in known if one is not None), None)
    return told if told is not None else rank() if _all_here() else 0


def ranks_here() -> int:
    """Number of ranks on this node; 1 without torchrun."""
    if world_size() == 1:
        return 1
    told = next(filter(None, map(number, LOCAL_SIZES)), None) or _slurm_tasks_here()
    return told or (world_size() if _all_here() else 1)


def master() -> tuple[str, int] | None:
    """Host, without brackets, and port at which ranks meet; None if there are no such two."""
    host, port = os.environ.get("MASTER_ADDR", "").strip(), number("MASTER_PORT") or 0
    return (host.strip("[]"), port) if host and 0 < port < 65536 else None


def endpoint(host: str, port: int) -> str:
    """``host:port``, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def node_name() -> str:
    """Slurm's name of this node, or the host's."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def _slurm_tasks_here() -> int | None:
    """How many ranks of this node ``srun`` has started; None if it has not started the ranks."""
    node = number("SLURM_NODEID")
    if node is None or number("SLURM_STEP_NUM_TASKS") != world_size():
        return None
    listed = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")  # such as 4(x2),3
    for tasks, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", listed):
        node -= int(times or 1)
        if node < 0:
            return int(tasks)
    return None


def _all_here() -> bool:
    host = os.environ.get("MASTER_ADDR", "").strip().strip("[]")
    return host in LOOPBACK or host.startswith("127.")
