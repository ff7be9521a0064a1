"""``rwp-dist``, in this process or as a program."""

import ctypes
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from rwp_dist.cli import main

PR_SET_CHILD_SUBREAPER = 36
"""From Linux's ``sys/prctl.h``: processes whose parent ends become this one's children."""


class Spent(NamedTuple):
    """Seconds of a program."""

    cpu_s: float
    """Of all its processes."""
    wall_s: float


@contextmanager
def silent() -> Iterator[None]:
    """Let nothing that this process prints, or those that it starts inside, reach the screen."""
    sys.stdout.flush()
    with Path(os.devnull).open("w") as nowhere:
        screens = [os.dup(number) for number in (1, 2)]
        for number in (1, 2):
            os.dup2(nowhere.fileno(), number)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, screen in zip((1, 2), screens, strict=True):
                os.dup2(screen, number)
                os.close(screen)


def command(*words: object) -> None:
    """Run ``rwp-dist`` in this process, without what it prints; it must succeed."""
    with silent():
        code = main([str(word) for word in words], standalone_mode=False)
    assert not code, f"rwp-dist {words} ends with {code}"


def program(*words: object) -> Spent:
    """Run ``rwp-dist`` as a program, without what it prints; it must succeed.

    This process must have no other children.
    """
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    before, begin = _ended_children_s(), time.perf_counter()
    command = [sys.executable, "-m", "rwp_dist", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    wall_s = time.perf_counter() - begin
    with suppress(ChildProcessError):
        while True:
            os.wait()  # for servers of its workers, which end later
    return Spent(_ended_children_s() - before, wall_s)


def _ended_children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
