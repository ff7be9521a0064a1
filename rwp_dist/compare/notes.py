"""The notes below the table: what columns mean, and where a comparison is not fair."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rwp_dist.compare.curves import AXES, Axis, estimated
from rwp_dist.compare.rows import Row, differing_keys, setting_of, value_text
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
) -> list[str]:
    """All notes that apply, the warnings last."""
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
    notes += _warnings(rows, by)
    if left_out:
        which = "; ".join(f"{path} ({why})" for path, why in left_out.items())
        notes.append(f"Left out: {which}.")
    return notes


def conditions(rows: Sequence[Row]) -> str:
    """``2 ranks on cpu, model small_cnn``."""
    runs = _runs(rows)
    ranks, devices, models = (
        " or ".join(map(str, _all(runs, key))) or "unknown"
        for key in ("world_size", "device", "model")
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
    if missing := ", ".join(row.name for row in rows if not row.time_ratios):
        notes.append(f"No time × SGD for {missing}: no sgd run of the same seed and session.")
    return notes


def _about_columns(rows: Sequence[Row], columns: Sequence[str]) -> list[str]:
    """What columns mean that were asked for, and which runs lack them."""
    notes = []
    if "train_top1" in columns:
        notes.append(
            "Train top-1: counted while training, on the training labels (noisy where they are), "
            f"at the weights the method trains with: clean in {CLEAN}, perturbed in others."
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


def _warnings(rows: Sequence[Row], by: Sequence[str]) -> list[str]:
    """What makes the comparison less fair than it looks."""
    runs = _runs(rows)
    keys = [key for key in differing_keys(runs) if key.startswith(("model.", "data."))]
    keys = [key for key in keys if key not in (*by, "model.name")]  # a summary has the name
    shared = [*keys, "model", "world_size", "device", "num_parameters"]
    warnings = [
        f"Careful: the runs differ in {which}, so this is not one comparison."
        for which in _differences(runs, shared)
    ]
    for row in rows:
        same = [*differing_keys(row.runs), "steps", "samples"]
        warnings += [
            f"Careful: runs of {row.name} differ in {which}."
            for which in _differences(row.runs, same)
        ]
        seeds = [str(run.seed) for run in row.runs]
        if repeated := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
            warnings.append(
                f"Careful: {row.name} has several runs of seed {', '.join(repeated)}; "
                "they count as separate runs."
            )
        if any(run.settings is None for run in row.runs):
            warnings.append(
                f"Careful: {row.name} has runs without a readable config.yaml, so their settings "
                "are not compared."
            )
    return warnings


def _differences(runs: Sequence[Run], keys: Sequence[str]) -> list[str]:
    """``key (a | b)`` for every setting, or key of the summaries, that has several values."""
    found = []
    for key in keys:
        values = [setting_of(r, key) for r in runs if r.settings] if "." in key else _all(runs, key)
        texts = list(dict.fromkeys(map(value_text, values)))
        if len(texts) > 1:
            found.append(f"{key} ({' | '.join(texts)})")
    return found


def _runs(rows: Sequence[Row]) -> list[Run]:
    return [run for row in rows for run in row.runs]


def _all(runs: Sequence[Run], key: str) -> list[object]:
    """Every value that ``key`` has in the summaries, once."""
    return list(dict.fromkeys(run.summary[key] for run in runs if run.summary.get(key) is not None))
