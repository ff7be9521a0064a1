"""Unit noise of the next perturbed pass, drawn while the gradients of this one are reduced.

Only the values are drawn ahead: they depend on their key alone, so noise that was drawn ahead is
bit for bit the noise drawn on the spot. What depends on the weights is applied when these are
known.
"""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.profiler import record_function

from rwp_dist.perturb.normals.generator import Noise
from rwp_dist.perturb.rows import Filter

Key = tuple[int, int]
"""Step and draw."""


class Times(NamedTuple):
    """What noise that was drawn ahead has taken, in seconds."""

    work: float = 0.0
    """Of the core or the device that drew."""
    drawn: float = 0.0
    """From the beginning to the end of drawing, with what it had to share."""
    waited: float = 0.0
    """Of that, what the training waited for."""


class Prefetch:
    """One buffer of unit noise, filled beside the training.

    Some parameters' noise may be left out of it, to make room for other tables; it is drawn when it
    is taken, and its time counts as waited for.
    """

    def __init__(
        self,
        noise: Noise,
        filters: Sequence[Filter],
        left_out: Sequence[Filter] = (),
    ) -> None:
        """Args:
        noise: nobody else's, as it is drawn in a thread of its own.
        left_out: see the function ``leave_out``.
        """
        self._filters = filters
        self._left_out = left_out
        ahead = [f for f in filters if f not in left_out]
        buffer = torch.empty(sum(f.shape.numel() for f in ahead), device=noise.device)
        pieces = buffer.split([f.shape.numel() for f in ahead])
        self._units = {f.index: p.view(f.shape) for f, p in zip(ahead, pieces, strict=True)}
        self._noise = noise
        self._wanted: Key | None = None
        self._held: Key | None = None
        """What is in the buffer, or on its way there."""
        self._lane: _Lane = _Stream() if noise.device.type == "cuda" else _Thread()
        self.num_bytes = buffer.numel() * buffer.element_size()

    def want(self, step: int, draw: int) -> None:
        """Announce the noise that is taken next; the buffer's present content is done with."""
        self._wanted = (step, draw)

    def start(self) -> None:
        """Begin to draw what is wanted; does nothing if that has begun, or nothing is wanted."""
        if self._wanted is not None and self._wanted != self._held:
            key = self._wanted
            self._held = None
            self._lane.submit(lambda: self._draw(key, self._units))
            self._held = key
        self._wanted = None

    def take(self, step: int, draw: int) -> list[Tensor]:
        """The noise of a pass, in the filters' order; drawn now unless it was drawn ahead."""
        if self._held != (step, draw):
            self.want(step, draw)
            self.start()
        self._wanted = None
        self.join()
        device = self._noise.device
        late = {f.index: torch.empty(f.shape, device=device) for f in self._left_out}
        if late:
            self._lane.run(lambda: self._draw((step, draw), late))
        units = self._units | late
        return [units[f.index] for f in self._filters]

    def join(self) -> None:
        """From here on what is being drawn is there."""
        try:
            self._lane.join()
        except BaseException:
            self._held = None  # it is not all there
            raise

    def times(self) -> Times:
        """Since the last call. On CUDA this waits for the device: at log steps only."""
        return self._lane.times()

    def close(self) -> None:
        """Wait for what is being drawn, and end."""
        self._lane.close()

    def _draw(self, key: Key, units: dict[int, Tensor]) -> None:
        with record_function("noise"):
            for index, unit in units.items():
                self._noise.fill(unit, *key, index)


def leave_out(filters: Sequence[Filter], num_bytes: int) -> list[Filter]:
    """Parameters that a buffer of noise does without, so that it is smaller by ``num_bytes``.

    Not by more, and by less only as far as no parameter is small enough. None if it were more than
    a fiftieth of the buffer, which happens with the smallest networks only.
    """
    if 50 * num_bytes > 4 * sum(f.shape.numel() for f in filters):
        return []
    chosen = []
    for f in sorted(filters, key=lambda f: -f.shape.numel()):
        if 0 < 4 * f.shape.numel() <= num_bytes:
            chosen.append(f)
            num_bytes -= 4 * f.shape.numel()
    return chosen


class _Task(Protocol):
    def __call__(self) -> None:
        """Fill the buffer."""


class _Lane(Protocol):
    """Where drawing happens beside everything else."""

    def submit(self, task: _Task) -> None:
        """Begin, once the buffer has been read by what was queued before."""

    def run(self, task: _Task) -> None:
        """Draw where the training is, which waits for it."""

    def join(self) -> None:
        """From here on the buffer may be read."""

    def times(self) -> Times:
        """See ``Prefetch.times``."""

    def close(self) -> None:
        """End."""


class _Thread:
    """A thread: whatever fills a tensor lets go of the interpreter's lock meanwhile."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="noise")
        self._future: Future[Times] | None = None
        self._times = Times()

    def submit(self, task: _Task) -> None:
        self.join()
        self._future = self._pool.submit(self._run, task)

    def run(self, task: _Task) -> None:
        took = self._run(task)
        self._add(Times(took.work, took.drawn, waited=took.drawn))

    @staticmethod
    def _run(task: _Task) -> Times:
        begin, work = time.perf_counter(), time.thread_time()
        task()
        return Times(time.thread_time() - work, time.perf_counter() - begin)

    def join(self) -> None:
        if self._future is not None:
            future, self._future = self._future, None
            begin = time.perf_counter()
            took = future.result()
            self._add(took._replace(waited=time.perf_counter() - begin))

    def _add(self, more: Times) -> None:
        self._times = Times(*(a + b for a, b in zip(self._times, more, strict=True)))

    def times(self) -> Times:
        times, self._times = self._times, Times()
        return times

    def close(self) -> None:
        self._pool.shutdown()


class _Stream:
    """A stream beside the default one, whose priority it shares; the host waits for nothing."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream(priority=0)
        self._done: torch.cuda.Event | None = None
        self._drawing: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._waiting: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def submit(self, task: _Task) -> None:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            start, done = _event(), _event()
            start.record()
            task()
            done.record()
        self._done = done
        self._drawing.append((start, done))

    def run(self, task: _Task) -> None:
        start, end = _event(), _event()
        start.record()
        task()
        end.record()
        self._drawing.append((start, end))
        self._waiting.append((start, end))

    def join(self) -> None:
        if self._done is not None:
            start, end = _event(), _event()
            start.record()
            torch.cuda.current_stream().wait_event(self._done)
            end.record()
            self._waiting.append((start, end))
            self._done = None

    def times(self) -> Times:
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
