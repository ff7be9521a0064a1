"""How long a repeated section takes, without waiting for the device."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch.autograd import profiler
from torch.profiler import record_function


class Stopwatch:
    """Adds up the time of a section: wall clock on the CPU, stream events on CUDA."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._seconds = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        """Count the time of the block; a profiler's trace calls it ``name``."""
        # Without a profiler a name is of no use, and costs more than a small network's noise.
        named = record_function(name) if profiler._is_profiler_enabled else nullcontext()
        with named:
            if not self._cuda:
                begin = time.perf_counter()
                yield
                self._seconds += time.perf_counter() - begin
                return
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            yield
            end.record()
            self._events.append((start, end))

    def take(self) -> float:
        """Seconds since the last call. On CUDA this waits for the device: at log steps only."""
        if self._events:
            self._events[-1][1].synchronize()
            self._seconds += sum(a.elapsed_time(b) for a, b in self._events) / 1000.0
            self._events.clear()
        seconds, self._seconds = self._seconds, 0.0
        return seconds
