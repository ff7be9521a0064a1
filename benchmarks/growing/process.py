"""Measure a function in a process of its own: CPU seconds, and memory that is its alone."""

import gc
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar

import psutil  # type: ignore[import-untyped]

_SPAWN = multiprocessing.get_context("spawn")  # a forked one would share what this one has loaded
WAIT_S = 600.0
"""For the other of two processes."""
_both: Barrier | None = None

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def alone(
    function: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Result:
    """What a function of a module returns in a new process."""
    with ProcessPoolExecutor(1, mp_context=_SPAWN) as executor:
        return executor.submit(function, *args, **kwargs).result()


def cpu_s() -> float:
    """CPU seconds, user and system, of this process and of all that it has started."""
    total = time.process_time()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:4])  # with those of its own that have ended
    ended = psutil.Process().cpu_times()
    return total + ended.children_user + ended.children_system


class Memory(NamedTuple):
    """Bytes of a process."""

    unique: int
    """Private pages."""
    shared: int
    """Pages that another process has too."""


def memory() -> Memory:
    """What this process has now."""
    found = psutil.Process().memory_full_info()
    return Memory(found.uss, found.rss - found.uss)


def peak_bytes() -> int:
    """The most resident bytes of this process since ``reset_peak``."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def reset_peak() -> int:
    """Start anew to look for the peak, and return the resident bytes now."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()


def cpu_of(function: Callable[..., object], small: Any, large: Any) -> float:
    """CPU seconds of ``function(large)`` in a process that has called ``function(small)`` before.

    So what is imported or compiled once does not count.
    """
    return alone(_cpu_of, function, small, large)


def _cpu_of(function: Callable[..., object], small: Any, large: Any) -> float:
    function(small)
    before = cpu_s()
    function(large)
    return cpu_s() - before


def memory_of(function: Callable[..., object], small: Any, large: Any) -> Memory:
    """What the result of ``function(large)`` takes in each of two processes that have it at once.

    The larger of both; ``small`` as in ``cpu_of``.
    """
    with ProcessPoolExecutor(
        2, mp_context=_SPAWN, initializer=_meet, initargs=(_SPAWN.Barrier(2),)
    ) as executor:
        futures = [executor.submit(_memory_of, function, small, large) for _ in range(2)]
        return max(future.result() for future in futures)


def _meet(barrier: Barrier) -> None:
    global _both
    _both = barrier


def _memory_of(function: Callable[..., object], small: Any, large: Any) -> Memory:
    assert _both is not None, "_meet is called first"
    function(small)
    gc.collect()
    _both.wait(WAIT_S)
    before = memory()
    _both.wait(WAIT_S)
    kept = function(large)
    _both.wait(WAIT_S)
    after = memory()
    _both.wait(WAIT_S)
    del kept
    return Memory(after.unique - before.unique, after.shared - before.shared)
