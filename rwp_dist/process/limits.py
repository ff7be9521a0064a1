"""What the system lets a process have: open files, a limit that it may raise itself, and memory."""

import resource
from contextlib import suppress

ENOUGH = 1 << 16
"""Files that no run needs more of."""


def raise_open_files() -> None:
    """Raise the soft limit to the hard one: 1,024 is usual, and a large run needs more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # macOS has a limit of its own
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def open_files() -> int:
    """How many files this process may have open at once."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return ENOUGH if soft == resource.RLIM_INFINITY else soft


def memory_limit() -> int | None:
    """Bytes of addresses that this process may use (``ulimit -v``); None: any number."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft
