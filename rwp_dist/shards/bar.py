"""A progress bar with rate and time left; in a log file, a line now and then."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

LOG_INTERVAL_S = 30.0


@contextmanager
def progress_bar(unit: str, part: tuple[int, int] = (0, 1)) -> Iterator[Callable[[int, int], None]]:
    """Yield a function to call with what is done by now and with what there is to do in all.

    What is done at the first call was there before, and does not count for the rate.
    """
    from tqdm import tqdm

    bars: list[tqdm[NoReturn]] = []

    def progress(done: int, total: int) -> None:
        if not bars:
            bars.append(
                tqdm(
                    initial=done,
                    total=total,
                    unit=f" {unit}",
                    desc=f"part {part[0]}/{part[1]}" if part[1] > 1 else None,
                    mininterval=0.2 if sys.stderr.isatty() else LOG_INTERVAL_S,
                    dynamic_ncols=True,
                )
            )
        bars[0].update(done - bars[0].n)

    try:
        yield progress
    finally:
        for bar in bars:
            bar.close()
