"""Processes that end with the one that started them. Imports nothing that takes time."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def end_with_parent(number: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when its parent dies, however that is (Linux).

    A process that is killed with -9 cannot end its children, and nobody else would.
    """
    if sys.platform == "linux":
        parent = os.getppid()  # may be 1: an agent in a container
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:
            os.kill(os.getpid(), number)
