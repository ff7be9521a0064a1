"""The progress bar of commands that take long. Imports no torch."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from rwp_dist.process import torchrun

LOG_INTERVAL_S = 30.0
"""Between two lines of a progress bar that goes to a log file."""


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

    def progress(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(
                initial=done,
                total=total,
                unit=f" {unit}",
                desc=title,
                disable=torchrun.rank() != 0,
                mininterval=0.2 if sys.stderr.isatty() else LOG_INTERVAL_S,
                dynamic_ncols=True,
            )
        bar.update(done - bar.n)

    try:
        yield progress
    finally:
        if bar is not None:
            bar.close()
