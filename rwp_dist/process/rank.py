"""What a process does first when an agent (torchrun, ``rwp-launch``) has started it as a rank.

Imports nothing that takes time.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

from rwp_dist.process import torchrun

PR_SET_PDEATHSIG = 1
LOGS = "RWP_LOGS"
"""Environment variable: the folder of this attempt's logs, one ``rank-N.log`` for each rank."""


def end_with_parent() -> None:
    """Have the kernel kill this process when its parent dies, however that happens (Linux).

    torchrun that is killed with -9 cannot end its ranks, and nobody else would.
    """
    if sys.platform == "linux":
        parent = os.getppid()  # may be 1: an agent in a container
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)


def write_to_log() -> None:
    """Send stdout and stderr to ``$RWP_LOGS/rank-N.log``, if it is set; rank 0 keeps the console.

    torchrun's ``--redirects`` would take the console from rank 0 too, and ``--tee`` would put a
    prefix before each line and show no progress bar.
    """
    folder = os.environ.get(LOGS)
    if not folder or torchrun.rank() == 0:
        return
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    log = os.open(log_of(Path(folder), torchrun.rank()), flags, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def log_of(folder: Path, rank: int) -> Path:
    """Where a rank's output is, in the folder of an attempt's logs."""
    return folder / f"rank-{rank}.log"
