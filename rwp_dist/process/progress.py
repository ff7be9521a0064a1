"""The progress bar of commands that take long. Imports no torch."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NoReturn, TextIO

from rwp_dist.process import streams, torchrun
from rwp_dist.process.stages import stage

LOG_INTERVAL_S = 30.0
"""Between two lines of a progress bar that goes to a log file."""

WIDTH = 80
"""Of such a line, in characters."""


@contextmanager
def progress_bar(unit: str, title: str | None = None) -> Iterator[Callable[[int, int], None]]:
    """A progress bar with rate and time left, on rank 0; in a log file, a line now and then.

    Yields a function to call with the numbers of finished units and of all units. What is finished
    at the first call was there before, and does not count for the rate.

    Args:
        unit: what is counted: ``img``.
        title: what stands before the bar.
    """
    from tqdm import tqdm

    bar: tqdm[NoReturn] | None = None
    before = ExitStack()
    before.enter_context(stage("getting ready", file=sys.stderr))

    def progress(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            before.close()
            terminal = streams.can_redraw(sys.stderr)
            bar = tqdm(
                file=sys.stderr if terminal else _Lines(sys.stderr),
                initial=done,
                total=total,
                unit=f" {unit}",
                desc=title,
                disable=torchrun.rank() != 0,
                mininterval=0.2 if terminal else LOG_INTERVAL_S,
                dynamic_ncols=terminal,
                ncols=None if terminal else WIDTH,
            )
        bar.update(done - bar.n)

    try:
        with before:
            yield progress
    finally:
        if bar is not None:
            bar.close()


class _Lines:
    """A file to which a progress bar writes lines, instead of one that it draws again."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> None:
        line = text.strip()
        if line:
            self._file.write(f"{line}\n")

    def flush(self) -> None:
        self._file.flush()
