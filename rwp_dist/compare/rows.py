"""Rows of the comparison: the seeds of one experiment are one row."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rwp_dist.base.urls import shown_text
from rwp_dist.compare.estimates import Estimate, estimate
from rwp_dist.compare.runs import Run
from rwp_dist.config import Affects, affects, differences, get_setting
from rwp_dist.perturb.methods import METHODS


@dataclass(frozen=True)
class Row:
    """Runs that differ in their seed."""

    label: str
    """``run.label`` of its runs."""

    settings: dict[str, Any]
    """Settings by key that tell it from other rows with the same label."""

    runs: tuple[Run, ...]

    time_ratios: tuple[float, ...]
    """Of each run that has an sgd run to compare with: its device seconds over that run's."""

    @property
    def name(self) -> str:
        """What the table calls it: ``m-rwp``, or ``m-rwp, sigma=0.1`` if settings differ."""
        parts = [f"{key.rpartition('.')[2]}={value_text(v)}" for key, v in self.settings.items()]
        return ", ".join([self.label, *parts])

    @property
    def method(self) -> str:
        """``method.name`` of its runs."""
        return " / ".join(dict.fromkeys(str(run.summary["method"]) for run in self.runs))

    @property
    def n(self) -> int:
        """How many runs it has."""
        return len(self.runs)

    def values(self, key: str) -> list[float]:
        """A number of every run that has it."""
        return [v for run in self.runs if (v := run.number(key)) is not None]

    def estimate(self, key: str) -> Estimate | None:
        """Mean and spread of ``values``; None if there are none."""
        return estimate(self.values(key))

    def texts(self, key: str) -> list[str]:
        """What runs have there, each text once."""
        values = (run.value(key) for run in self.runs)
        return list(dict.fromkeys(str(value) for value in values if value is not None))


def make_rows(runs: Sequence[Run], by: Sequence[str] = ()) -> list[Row]:
    """Group runs, ordered by method, label and settings; ``by`` is that of ``compare``."""
    sgd_seconds = _sgd_seconds(runs)
    rows = []
    for label in dict.fromkeys(run.label for run in runs):
        own = [run for run in runs if run.label == label]
        keys = [key for key in by if len({str(setting_of(run, key)) for run in own}) > 1]
        keys = keys if by else differing_keys(own)
        groups: dict[str, list[Run]] = {}
        for run in own:
            groups.setdefault(str([setting_of(run, key) for key in keys]), []).append(run)
        for group in groups.values():
            group.sort(key=lambda run: (str(run.seed), run.path))
            ratios = [
                float(run.summary["device_seconds"]) / sgd_seconds[timing_key(run)]
                for run in group
                if timing_key(run) in sgd_seconds
            ]
            settings = {key: setting_of(group[0], key) for key in keys}
            rows.append(Row(label, settings, tuple(group), tuple(ratios)))
    return sorted(rows, key=_place)


def differing_keys(runs: Sequence[Run]) -> list[str]:
    """Settings in which runs differ by more than rounding, the method's first."""
    known = [run.settings for run in runs if run.settings is not None]
    keys = {d.key for other in known[1:] for d in differences(known[0], other)}
    same = (Affects.NOTHING, Affects.ROUNDING)
    keys = {key for key in keys if affects(key) not in same and key != "run.seed"}
    return sorted(keys, key=lambda key: (not key.startswith("method."), key))


def setting_of(run: Run, key: str) -> Any:
    """A setting of a run, or "unknown"."""
    return "unknown" if run.settings is None else get_setting(run.settings, key)


def value_text(value: Any) -> str:
    """A setting's value as a table shows it, without passwords."""
    if isinstance(value, list):
        return "/".join(map(value_text, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else shown_text(str(value))


def timing_key(run: Run) -> tuple[Any, ...]:
    """What two runs must share, so that their times can be compared."""
    return tuple(run.summary.get(key) for key in ("session", "seed", "world_size", "device"))


def _sgd_seconds(runs: Sequence[Run]) -> dict[tuple[Any, ...], float]:
    """Device seconds of sgd by ``timing_key``.

    sgd is what has that label. Otherwise it is the method sgd, if only one label has it.
    """
    sgd = [run for run in runs if run.label == "sgd"]
    sgd = sgd or [run for run in runs if run.summary["method"] == "sgd"]
    if len({run.label for run in sgd}) > 1:
        return {}
    times: dict[tuple[Any, ...], list[float]] = {}
    for run in sgd:
        if run.summary.get("session"):  # "": trained alone, so no other run took turns with it
            times.setdefault(timing_key(run), []).append(run.summary["device_seconds"])
    return {key: statistics.median(values) for key, values in times.items()}


def _place(row: Row) -> tuple[Any, ...]:
    known = list(METHODS)
    method = known.index(row.method) if row.method in known else len(known)
    values = [
        (0, v, "") if isinstance(v, int | float) else (1, 0.0, str(v))  # numbers by size
        for v in row.settings.values()
    ]
    return method, row.label != row.method, row.label, values
