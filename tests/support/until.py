"""Wait for a process's line or its end, or for what nothing tells, so that one looks again."""

import os
import select
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")

HANG_S = 600.0
"""What a test waits for has come by then, however busy the machine is, or never comes."""


def until(
    condition: Callable[[], T],
    what: str | Callable[[], str],
    timeout_s: float = HANG_S,
    every_s: float = 0.01,
) -> T:
    """Look until ``condition()`` is true; returns what it gave.

    Args:
        condition: what to look at.
        what: what is waited for, or a function that says so when it did not come.
        timeout_s: seconds after which the test fails.
        every_s: seconds between two looks.
    """
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        late = time.monotonic() > deadline
        assert not late, f"it did not come: {what if isinstance(what, str) else what()}"
        time.sleep(every_s)
    return found


def until_line(process: subprocess.Popen[str], start: str, timeout_s: float = HANG_S) -> None:
    """Read a process's stdout to the first line that begins so.

    Args:
        process: with ``stdout=PIPE`` and ``text=True``.
        start: of the line.
        timeout_s: seconds after which the process is killed and the test fails.
    """
    assert process.stdout is not None
    killer = threading.Timer(timeout_s, process.kill)
    killer.start()
    lines = []
    try:
        for line in process.stdout:
            lines.append(line)
            if line.startswith(start):
                return
        raise AssertionError(f"no line began with {start!r}:\n{''.join(lines)}")
    finally:
        killer.cancel()


def until_ended(pids: Iterable[int], timeout_s: float = HANG_S) -> None:
    """Wait for the end of processes, which need not be this one's children."""
    for pid in pids:
        with suppress(ProcessLookupError):
            process = os.pidfd_open(pid)
            ended, _, _ = select.select([process], [], [], timeout_s)
            os.close(process)
            assert ended, f"process {pid} still runs"
