"""Rows of the comparison: the seeds of one experiment are one row."""

import re
import statistics
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rwp_dist.base.text import shortened, visible
from rwp_dist.base.urls import shown_text
from rwp_dist.compare.estimates import Estimate, estimate
from rwp_dist.compare.runs import Run
from rwp_dist.config import Affects
from rwp_dist.perturb.methods import METHODS
from rwp_dist.record.identity import OTHERS, affects_of

LONGEST = 80
"""Characters of a name in tables and pictures."""

UNKNOWN = "unknown"
TRAIN, VAL, INIT = "data.train.id", "data.val.id", "model.init.id"
SPLITTING = (Affects.RESULT, Affects.SPLIT)
"""What runs of one row must share, besides their data and label."""

DIGEST = re.compile(r"^[0-9a-f]{12,}")
LEAST_DIGITS = 6
"""How much of a digest is shown, if that tells it from others."""

Names = Mapping[Path, str]
"""What tells data apart, by run directory."""


@dataclass(frozen=True)
class Row:
    """Runs that differ in their seed."""

    label: str
    """``run.label`` of its runs."""

    name: str
    """What the table calls it: ``m-rwp``, or ``m-rwp, sigma=0.1`` if settings differ in its table.
    Rows of several test sets have different names too."""

    settings: dict[str, Any]
    """Values by key that tell it from other rows with the same label."""

    runs: tuple[Run, ...]

    time_ratios: tuple[float, ...]
    """Of each run that has an sgd run to compare with: its device seconds over that run's."""

    test_set: str
    """What its runs are evaluated on: the id of the content, or the path if that is not known."""

    marks: str = ""
    """Behind its name: numbers of the notes that say what it was trained with, as ``[1, 3]``."""

    @property
    def title(self) -> str:
        """Its name for tables and pictures: cut if it is long, on one line, with its marks."""
        return f"{shortened(visible(self.name), LONGEST)} {self.marks}".rstrip()

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
    """Group runs, ordered by test set, method, label and settings.

    Args:
        runs: of any labels, data and settings.
        by: that of ``compare``. Runs of several test sets are never one row.
    """
    data = {TRAIN: data_names(runs, TRAIN), VAL: data_names(runs, VAL)}
    short = {key: short_texts(names.values()) for key, names in data.items()}
    sgd_seconds = _sgd_seconds(runs, data)
    rows = []
    of_table: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        of_table.setdefault((run.label, data[VAL][run.path]), []).append(run)
    for (label, test_set), own in of_table.items():
        keys = list(by or differing_keys(own))
        values = [
            {key: value_of(run, key) for key in keys}
            | ({TRAIN: data[TRAIN][run.path]} if not by or TRAIN in by else {})
            for run in own
        ]
        keys = [key for key in values[0] if len({str(one[key]) for one in values}) > 1]
        groups: dict[str, list[tuple[Run, dict[str, Any]]]] = {}
        for run, one in zip(own, values, strict=True):
            groups.setdefault(str([one[key] for key in keys]), []).append((run, one))
        for group in groups.values():
            group.sort(key=lambda member: (str(member[0].seed), member[0].path))
            members, settings = tuple(run for run, _ in group), group[0][1]
            settings = {key: settings[key] for key in keys}
            timed = [(run, timing_key(run, data)) for run in members]
            ratios = [
                float(run.summary["device_seconds"]) / sgd_seconds[key]
                for run, key in timed
                if key in sgd_seconds
            ]
            parts = [
                f"data.train={short[key][value_text(value)]}"
                if key == TRAIN
                else f"{key.rpartition('.')[2]}={value_text(value)}"
                for key, value in settings.items()
            ]
            name = ", ".join([label, *parts])
            rows.append(Row(label, name, settings, members, tuple(ratios), test_set))
    counts = Counter(row.test_set for row in rows)
    rows.sort(key=lambda row: (-counts[row.test_set], row.test_set, *_place(row)))
    return _distinct(_of_test_sets(rows, short[VAL]))


def data_names(runs: Sequence[Run], key: str) -> Names:
    """What tells the data of runs apart: the id of their content, wherever they are.

    A run that does not know the id has the path; or the id that other runs found there, if it is
    only one.

    Args:
        runs: all that are compared.
        key: ``TRAIN`` or ``VAL``.
    """
    places = {run.path: str(value_of(run, key.removesuffix(".id"))) for run in runs}
    ids = {run.path: value_of(run, key) for run in runs}
    there: dict[str, set[str]] = {}
    for path, found in ids.items():
        there.setdefault(places[path], set()).update({str(found)} - {UNKNOWN})
    return {
        path: next(iter(there[place]))
        if len(there[place]) == 1
        else place
        if found == UNKNOWN
        else str(found)
        for (path, found), place in zip(ids.items(), places.values(), strict=True)
    }


def differing_keys(runs: Sequence[Run], kinds: Sequence[Affects] = SPLITTING) -> list[str]:
    """Settings in which runs differ and that affect one of ``kinds``, the method's first."""
    runs = [run for run in runs if run.identity]
    keys = {key for run in runs for key in run.identity if key not in OTHERS}
    keys = {key for key in keys if affects_of(key) in kinds and key != "run.seed"}
    if len({str(value_of(run, INIT)) for run in runs}) > 1:
        keys.add(INIT.removesuffix(".id"))  # a place that tells what the runs began from
    keys = {key for key in keys if len({str(value_of(run, key)) for run in runs}) > 1}
    return sorted(keys, key=lambda key: (not key.startswith("method."), key))


def value_of(run: Run, key: str) -> Any:
    """A value of a run's identity, or "unknown"."""
    value = run.identity.get(key, UNKNOWN)
    return UNKNOWN if value is None and key in OTHERS else value


def value_text(value: Any) -> str:
    """A setting's value as a table shows it, without passwords."""
    if isinstance(value, list):
        return "/".join(map(value_text, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else shown_text(str(value))


def key_name(key: str) -> str:
    """What notes call a key of an identity."""
    classes = key == "data.train.classes"
    return "class names of the training data" if classes else key.removesuffix(".id")


def short_texts(values: Iterable[Any]) -> dict[str, str]:
    """By the text of each value: the same with as few digits of digests as tell all apart."""
    texts = list(dict.fromkeys(map(value_text, values)))
    found: dict[str, str] = {}
    for digits in range(LEAST_DIGITS, 65):
        cut = slice(digits)
        found = {text: DIGEST.sub(lambda match: match[0][cut], text) for text in texts}  # noqa: B023
        if len(set(found.values())) == len(texts):
            break
    return found


def timing_key(run: Run, data: Mapping[str, Names]) -> tuple[Any, ...]:
    """What two runs must share, so that their times can be compared."""
    shared = (run.summary.get(key) for key in ("session", "seed", "world_size", "device"))
    return (*shared, *(names[run.path] for names in data.values()))


def _sgd_seconds(runs: Sequence[Run], data: Mapping[str, Names]) -> dict[tuple[Any, ...], float]:
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
            times.setdefault(timing_key(run, data), []).append(run.summary["device_seconds"])
    return {key: statistics.median(values) for key, values in times.items()}


def _place(row: Row) -> tuple[Any, ...]:
    known = list(METHODS)
    method = known.index(row.method) if row.method in known else len(known)
    values = [
        (0, v, "") if isinstance(v, int | float) else (1, 0.0, str(v))  # numbers by size
        for v in row.settings.values()
    ]
    return method, row.label != row.method, row.label, values


def _of_test_sets(rows: Sequence[Row], short: Mapping[str, str]) -> list[Row]:
    """Rows whose names are those of rows of other test sets get their own; ``short``: its text."""
    several = {(row.name, row.test_set) for row in rows}
    counts = Counter(name for name, _ in several)
    return [
        row
        if counts[row.name] == 1
        else replace(
            row,
            name=f"{row.name}, data.val={short[value_text(row.test_set)]}",
            settings=row.settings | {VAL: row.test_set},
        )
        for row in rows
    ]


def _distinct(rows: Sequence[Row]) -> list[Row]:
    """Rows whose names nobody can tell apart get a number."""
    seen: Counter[str] = Counter()
    found = []
    for row in rows:
        looks = unicodedata.normalize("NFC", visible(row.name))
        seen[looks] += 1
        number = f" ({seen[looks]})" if seen[looks] > 1 else ""
        found.append(replace(row, name=row.name + number))
    return found
