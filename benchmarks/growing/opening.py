"""Rows of a rank: it opens a data set, plans its steps, and goes on in the middle of an epoch."""

import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from growing.data_sets import RANKS, make_data_set, settings_of
from growing.process import alone, cpu_of, memory_of
from growing.row import Row
from rwp_dist.config import split_batch
from rwp_dist.data import open_train

RANK = 3
STEPS, MOST_STEPS_S, EPOCHS = 128, 3.0, 3
"""Steps that are planned in each epoch, at most for so long, and epochs."""
REPEATS = 3
"""The least of so many processes counts: others use the machine too."""


class Opened(NamedTuple):
    """What is opened, and with which of the node's caches."""

    folder: Path
    cache: Path
    more: tuple[str, ...] = ()


def open_rank(what: Opened) -> object:
    """Open a data set as a rank does, up to the rows of its first step."""
    settings = settings_of(*what[:2], *what.more)
    stream = open_train(settings, split_batch(settings, RANKS), RANK)
    stream.request(0)
    return stream


def resume_s(what: Opened) -> float:
    """CPU seconds of an opened rank to the first batch at 90 % of an epoch."""
    settings = settings_of(*what[:2], *what.more)
    stream = open_train(settings, split_batch(settings, RANKS), RANK)
    first = int(0.9 * stream.steps_per_epoch)
    before = time.process_time()
    step = next(stream.steps(first, first + 1))
    assert step.valid, "it has samples"
    return time.process_time() - before


def resume_after(small: Opened, large: Opened) -> float:
    """The same in a process that has done it with a small data set before."""
    resume_s(small)
    return resume_s(large)


class Planned(NamedTuple):
    """CPU seconds that planning takes a rank, and those of balanced over natural sampling."""

    natural_s: float
    balanced_s: float
    ratio: float
    """Median over steps that take turns."""
    epoch_ratio: float
    """The same of the first step of an epoch."""
    epoch_s: float
    """CPU seconds of that step with balanced sampling."""


def planned(what: Opened) -> Planned:
    """Compare balanced with natural sampling, step by step."""
    streams = []
    for sampling in ("natural", "balanced"):
        settings = settings_of(*what[:2], f"data.sampling={sampling}")
        streams.append(open_train(settings, split_batch(settings, RANKS), RANK))
    steps: list[tuple[float, ...]] = []
    epochs: list[tuple[float, ...]] = []
    for epoch in range(EPOCHS):
        begin = time.process_time()
        for index in range(min(STEPS, min(s.steps_per_epoch for s in streams))):
            times = []
            for stream in streams:
                before = time.process_time()
                stream.request(epoch * stream.steps_per_epoch + index)
                times.append(time.process_time() - before)
            (steps if index else epochs).append(tuple(times))
            if time.process_time() - begin > MOST_STEPS_S and index > 2:
                break
    natural_s, balanced_s = (statistics.median(column) for column in zip(*steps, strict=True))
    ratio, epoch_ratio = (
        statistics.median(balanced / natural for natural, balanced in pairs)
        for pairs in (steps, epochs)
    )
    epoch_s = statistics.median(balanced for _, balanced in epochs)
    return Planned(natural_s, balanced_s, ratio, epoch_ratio, epoch_s)


def rows(folder: Path, sizes: Sequence[int]) -> Iterator[Row]:
    """All rows of data sets of these numbers of samples, which are made in ``folder``."""
    small = Opened(make_data_set(folder / "small", 4000), folder / "cache-small")
    cold, warm, resumed = dict[int, float](), dict[int, float](), dict[int, float]()
    sets = dict[int, Opened]()
    for size in sizes:
        place = make_data_set(folder / f"of-{size}", size)
        turns = [Opened(place, folder / f"cache-{size}-{turn}") for turn in range(REPEATS)]
        cold[size] = min(cpu_of(open_rank, small, what) for what in turns)
        for unneeded in turns[1:]:
            shutil.rmtree(unneeded.cache, ignore_errors=True)
        sets[size] = what = turns[0]
        warm[size] = min(cpu_of(open_rank, small, what) for _ in turns)
        resumed[size] = min(alone(resume_after, small, what) for _ in turns)
    yield Row("open, the first time on a node", "CPU s", cold)
    yield Row("open, again", "CPU s", warm, 0.2, 0.2)
    yield Row("resume in mid-epoch, once it is open", "CPU s", resumed, 0.2, 0.2)

    for name, more in (("", ()), (", balanced", ("data.sampling=balanced",))):
        found = {}
        for size, what in sets.items():
            pair = small._replace(more=more), what._replace(more=more)
            cpu_of(open_rank, *pair)  # the first of a node makes the line of balanced samples
            found[size] = memory_of(open_rank, *pair)
        most = None if more else 30.0
        unique = {size: memory.unique / 1e6 for size, memory in found.items()}
        yield Row(f"unique memory of a rank{name}", "MB", unique, most)
        if not more:
            shared = {size: memory.shared / 1e6 for size, memory in found.items()}
            yield Row("memory that ranks share", "MB", shared)

    made = {size: alone(planned, what).epoch_s for size, what in sets.items()}
    yield Row("balanced, the line of an epoch, once a node", "CPU s", made)
    plans = {size: alone(planned, what) for size, what in sets.items()}
    yield Row(
        "natural sampling, a step", "CPU ms", {n: 1e3 * p.natural_s for n, p in plans.items()}
    )
    yield Row("balanced, a step", "CPU ms", {n: 1e3 * p.balanced_s for n, p in plans.items()})
    yield Row("balanced x natural, a step", "", {n: p.ratio for n, p in plans.items()}, 1.1)
    epochs = {n: p.epoch_ratio for n, p in plans.items()}
    yield Row("balanced x natural, change of epoch", "", epochs, 2.0)
