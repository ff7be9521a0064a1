"""The notes below the table: what columns mean, and where a comparison is not fair."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from rwp_dist.base.text import visible
from rwp_dist.compare.curves import AXES, Axis, estimated
from rwp_dist.compare.pairs import Differences
from rwp_dist.compare.rows import (
    TRAIN,
    Row,
    data_names,
    differing_keys,
    key_name,
    short_texts,
    value_of,
    value_text,
)
from rwp_dist.compare.runs import Run
from rwp_dist.perturb.methods import METHODS

SMALL_NETWORK = 1_000_000
"""Parameters. Overheads decide the step time of smaller networks."""

CLEAN = ", ".join(name for name, method in METHODS.items() if "clean" in method.roles)
MIXED = " or ".join(name for name, method in METHODS.items() if method.mixed)


def make_notes(
    rows: Sequence[Row],
    left_out: Mapping[Path, str],
    by: Sequence[str] = (),
    columns: Sequence[str] = (),
    axis: Axis = AXES["device"],
    marks: Sequence[str] = (),
    differences: Differences | None = None,
) -> list[str]:
    """All notes that apply, the warnings last; ``marks`` are those of ``marked``."""
    notes = [f"Trained with {conditions(rows)}."]
    if any(row.n > 1 for row in rows):
        notes.append(
            "±: standard deviation over n runs. 95 % interval: of their mean, by Student's t; "
            "the picture's bars show it."
        )
    notes += _about_times(rows)
    if any(row.method in METHODS and METHODS[row.method].mixed for row in rows):
        notes.append(
            f"One update of {MIXED} passes half of its samples at clean weights and half at "
            "perturbed ones; `samples` counts both."
        )
    notes += _about_columns(rows, columns)
    if any(estimated(run, axis) for row in rows for run in row.runs):
        notes.append(
            f"{axis.label.capitalize()} while training is estimated from the share of the updates, "
            "because runs of an earlier version did not record it."
        )
    skipped = {row.name: sum(row.values("skipped_steps")) for row in rows}
    if any(skipped.values()):
        which = ", ".join(f"{name} {number:.0f}" for name, number in skipped.items() if number)
        notes.append(f"Updates skipped because of non-finite gradients: {which}.")
    notes += [*_about_test_sets(rows), *_warnings(rows, by), *marks]
    if differences and differences.omitted:
        notes.append(
            f"Not compared with {differences.baseline}, because their test set is another: "
            f"{'; '.join(differences.omitted)}."
        )
    if left_out:
        which = "; ".join(f"{path} ({why})" for path, why in left_out.items())
        notes.append(f"Left out: {which}.")
    return list(map(visible, notes))


def conditions(rows: Sequence[Row]) -> str:
    """``2 ranks on cpu, model small_cnn``."""
    runs = _runs(rows)
    ranks, devices, models = (
        " or ".join(found) or "unknown"
        for found in (
            sorted(map(str, _all(runs, "world_size")), key=lambda text: (len(text), text)),
            map(str, _all(runs, "device")),
            map(str, _all(runs, "model")),
        )
    )
    return f"{ranks} rank{'' if ranks == '1' else 's'} on {devices}, model {models}"


def _about_times(rows: Sequence[Row]) -> list[str]:
    notes = []
    timed = [row for row in rows if row.time_ratios]
    if timed:
        notes.append(
            "Time × SGD: seconds of training × devices, over those of the sgd run of the same seed "
            "and session, on as many devices; median over seeds, and their range."
        )
    if any(number < SMALL_NETWORK for row in timed for number in row.values("num_parameters")):
        notes.append(
            "For networks this small, overheads and the machine's other work decide times, which "
            "change from one comparison to the next; benchmarks/step.py times a real one."
        )
    if missing := "; ".join(row.name for row in rows if not row.time_ratios):
        notes.append(
            f"No time × SGD for {missing}: no sgd run of the same seed and data took turns with "
            "them; train all of them with one `sweep`."
        )
    return notes


def _about_columns(rows: Sequence[Row], columns: Sequence[str]) -> list[str]:
    """What columns mean that were asked for, and which runs lack them."""
    notes = []
    if "train_top1" in columns:
        notes.append(
            "Train top-1: counted while training, on the training labels (noisy where they are), "
            f"at the weights the method trains with: clean in {CLEAN}, perturbed in others. With "
            "Mixup or CutMix a predicted class counts as its share of the image; runs of earlier "
            "versions counted the first image's label alone."
        )
    otherwise = [row.name for row in rows if any(run.measured_otherwise for run in row.runs)]
    if otherwise:
        notes.append(
            "Careful: `rwp-dist evaluate` measured runs with other data or settings than their "
            f"own; these numbers are left out: {', '.join(otherwise)}."
        )
    lacking: dict[str, list[str]] = {}
    for key in columns:
        counts = [(row, sum(run.value(key) is not None for run in row.runs)) for row in rows]
        few = [f"{row.name} {count} of {row.n}" for row, count in counts if count < row.n]
        lacking.setdefault(", ".join(few), []).append(key)
    notes += [
        f"Careful: not every run has {', '.join(keys)}: {which}."
        for which, keys in lacking.items()
        if which
    ]
    return notes


def _about_test_sets(rows: Sequence[Row]) -> list[str]:
    """Which there are and where they lay, if there are several."""
    if len(short := test_sets(rows)) < 2:
        return []
    found = []
    for test_set, own in groupby(rows, lambda row: row.test_set):
        places = dict.fromkeys(value_text(value_of(run, "data.val")) for run in _runs(list(own)))
        found.append(f"{short[test_set]} ({', '.join(places)})")
    return [
        f"Careful: there are {len(short)} test sets: {'; '.join(found)}. "
        "Rows of one are not compared with those of another."
    ]


def test_sets(rows: Sequence[Row]) -> dict[str, str]:
    """How each test set is written."""
    short = short_texts(row.test_set for row in rows)
    return {row.test_set: short[value_text(row.test_set)] for row in rows}


def _warnings(rows: Sequence[Row], by: Sequence[str]) -> list[str]:
    """What makes the comparison less fair than it looks."""
    runs = _runs(rows)
    keys = [key for key in differing_keys(runs) if key.startswith(("model.", "data."))]
    # A summary has the name; what runs began from is what they are compared for.
    keys = [key for key in keys if key not in (*by, "model.name", "model.init")]
    keys += [TRAIN] if not {"data.train", TRAIN} & set(by) else []
    shared = [*keys, "model", "device", "num_parameters"]
    warnings = []
    if differences := ", ".join(_differences(runs, shared)):
        warnings.append(
            f"Careful: the runs differ in {differences}, so this is not one comparison."
        )
    for row in rows:
        same = [*differing_keys(row.runs), TRAIN, "steps", "samples"]
        warnings += [
            f"Careful: runs of {row.name} differ in {which}."
            for which in _differences(row.runs, same)
        ]
        seeds = Counter(str(run.seed) for run in row.runs)
        if repeated := sorted(seed for seed, number in seeds.items() if number > 1):
            warnings.append(
                f"Careful: {row.name} has several runs of seed {', '.join(repeated)}; "
                "they count as separate runs."
            )
        if not all(run.identity for run in row.runs):
            warnings.append(
                f"Careful: {row.name} has runs without a readable config.yaml, so their settings "
                "are not compared."
            )
        if short := [run.path for run in row.runs if is_cut(run)]:
            warnings.append(
                f"Careful: the evaluations of {', '.join(map(str, short))} are not all there, so "
                f"the curve of {row.name} is not whole."
            )
    if old := [row for row in rows if not all(run.has_identity for run in row.runs)]:
        which = "these runs" if len(old) == len(rows) else "; ".join(row.name for row in old)
        warnings.append(
            f"Careful: which data and code {which} had is not known in full, because runs of an "
            "earlier version did not record it."
        )
    return warnings


def is_cut(run: Run) -> bool:
    """Whether its last evaluation is missing."""
    return max(run.evaluations, default=0) < run.summary["steps"]


def _differences(runs: Sequence[Run], keys: Sequence[str]) -> list[str]:
    """``key (a | b)`` for every setting, or key of the summaries, that has several values."""
    found = []
    for key in keys:
        if key == TRAIN:
            values: list[object] = list(data_names(runs, TRAIN).values())
        elif "." in key:
            values = [value_of(run, key) for run in runs if run.identity]
        else:
            values = _all(runs, key)
        texts = short_texts(values).values()
        if len(texts) > 1:
            found.append(f"{key_name(key)} ({' | '.join(texts)})")
    return found


def _runs(rows: Sequence[Row]) -> list[Run]:
    return [run for row in rows for run in row.runs]


def _all(runs: Sequence[Run], key: str) -> list[object]:
    """Every number or text that ``key`` has in the summaries, once."""
    return list(dict.fromkeys(value for run in runs if (value := run.value(key)) is not None))
