"""Noise of the next perturbed pass, drawn while the gradients of this one are reduced.

Only standard normal values are drawn ahead. They depend on their key alone, so they are the same to
the last bit as values drawn on the spot. What depends on the weights is applied later.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.profiler import record_function

from rwp_dist.perturb.normals import Normals
from rwp_dist.perturb.rows import Rows

Key = tuple[int, int]
"""Step and draw."""


class Times(NamedTuple):
    """What drawing ahead has taken, in seconds."""

    work: float = 0.0
    """Time of the core or the device that drew."""
    drawn: float = 0.0
    """From the beginning to the end of drawing, waiting for a core included."""
    waited: float = 0.0
    """Part of that for which the training waited."""


class DrawAhead:
    """One buffer of standard normal values, filled beside the training."""

    def __init__(self, normals: Normals, rows: Sequence[Rows]) -> None:
        """``normals``: used by nobody else, because another thread draws with it."""
        sizes = [r.shape.numel() for r in rows]
        buffer = torch.empty(sum(sizes), device=normals.device)
        self._units = [p.view(r.shape) for p, r in zip(buffer.split(sizes), rows, strict=True)]
        self._indices = [r.index for r in rows]
        self._normals = normals
        self._next: Key | None = None
        self._held: Key | None = None
        """Key of what is in the buffer, or on its way there."""
        self._worker: _Worker = _Stream() if normals.device.type == "cuda" else _Thread()
        self.num_bytes = buffer.nbytes

    def announce(self, step: int, draw: int) -> None:
        """Say which noise is taken next. The present content of the buffer is no longer needed."""
        self._next = (step, draw)

    def start(self) -> None:
        """Begin to draw what was announced, unless that has begun."""
        if self._next is not None and self._next != self._held:
            key = self._next
            self._held = None
            self._worker.submit(lambda: self._draw(key))
            self._held = key
        self._next = None

    def take(self, step: int, draw: int) -> list[Tensor]:
        """The values of a pass, one tensor per parameter; drawn now unless they are there."""
        if self._held != (step, draw):
            self.announce(step, draw)
            self.start()
        self._next = None
        self.join()
        return self._units

    def join(self) -> None:
        """Wait until what is being drawn is there."""
        try:
            self._worker.join()
        except BaseException:
            self._held = None  # the buffer holds a part of it
            raise

    def take_times(self) -> Times:
        """Times since the last call. On CUDA this waits for the device: at log steps only."""
        return self._worker.take_times()

    def close(self) -> None:
        """Wait for what is being drawn, and end."""
        self._worker.close()

    def _draw(self, key: Key) -> None:
        with record_function("noise"):
            for index, unit in zip(self._indices, self._units, strict=True):
                self._normals.fill(unit, *key, index)


class _Worker(Protocol):
    """Where drawing happens beside everything else."""

    def submit(self, task: Callable[[], None]) -> None:
        """Begin to fill the buffer, once what was queued before has read it."""

    def join(self) -> None:
        """From here on the buffer may be read."""

    def take_times(self) -> Times:
        """See ``DrawAhead.take_times``."""

    def close(self) -> None:
        """Wait for what runs, and end."""


class _Thread:
    """A thread. Filling a tensor releases the interpreter's lock, so the training goes on."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="noise")
        self._future: Future[Times] | None = None
        self._times = Times()

    def submit(self, task: Callable[[], None]) -> None:
        self.join()
        self._future = self._pool.submit(self._run, task)

    @staticmethod
    def _run(task: Callable[[], None]) -> Times:
        begin, work = time.perf_counter(), time.thread_time()
        task()
        return Times(time.thread_time() - work, time.perf_counter() - begin)

    def join(self) -> None:
        if self._future is not None:
            future, self._future = self._future, None
            begin = time.perf_counter()
            took = future.result()._replace(waited=time.perf_counter() - begin)
            self._times = Times(*(a + b for a, b in zip(self._times, took, strict=True)))

    def take_times(self) -> Times:
        times, self._times = self._times, Times()
        return times

    def close(self) -> None:
        self._pool.shutdown()


class _Stream:
    """A CUDA stream beside the default one, of the same priority; the host waits for nothing."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream(priority=0)
        self._done: torch.cuda.Event | None = None
        self._drawing: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._waiting: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def submit(self, task: Callable[[], None]) -> None:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            start, done = _event(), _event()
            start.record()
            task()
            done.record()
        self._done = done
        self._drawing.append((start, done))

    def join(self) -> None:
        if self._done is not None:
            start, end = _event(), _event()
            start.record()
            torch.cuda.current_stream().wait_event(self._done)
            end.record()
            self._waiting.append((start, end))
            self._done = None

    def take_times(self) -> Times:
        seconds = []
        for pairs in (self._drawing, self._waiting):
            done = [pair for pair in pairs if pair[1] is not self._done]
            if done:
                done[-1][1].synchronize()
            seconds.append(sum(a.elapsed_time(b) for a, b in done) / 1000.0)
            pairs[:] = pairs[len(done) :]
        return Times(seconds[0], seconds[0], seconds[1])

    def close(self) -> None:
        self._stream.synchronize()


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)
