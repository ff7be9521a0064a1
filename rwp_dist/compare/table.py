"""From runs to rows: seeds of one experiment together, mean and sample standard deviation."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rwp_dist.compare.experiments import Experiment, group
from rwp_dist.compare.runs import Run
from rwp_dist.perturb.methods import METHODS

ORDER = ("sgd", "sgd 2x", "sam", "asam", "rwp", "arwp", "m-rwp", "m-arwp")
"""Rows in this order; other labels follow, by their method and then by alphabet."""

MIXED = {name for name, method in METHODS.items() if method.mixed}

DASH = "—"

SMALL_NETWORK = 1_000_000
"""Parameters below which overheads decide a step's time."""

SMALL_TIMES = (
    "For networks this small, overheads and the machine's other work decide step times, which "
    "change from one comparison to the next; benchmarks/step.py times a real one."
)

HEADER = (
    ("", "method"),
    ("passes", "per step"),
    ("", "updates"),
    ("", "samples"),
    ("device", "s"),
    ("step time", "× SGD"),
    ("test", "top-1 %"),
    ("", "n"),
    ("train", "top-1 %"),
)
"""Names of the columns; a terminal shows them on two lines, so that the table stays narrow."""


@dataclass(frozen=True)
class Row:
    """All seeds of one experiment."""

    experiment: Experiment
    method: str
    runs: tuple[Run, ...]
    step_ratios: tuple[float, ...]
    """Step time over that of sgd with the same seed in the same session, where there is one."""

    @property
    def label(self) -> str:
        """What a table calls it."""
        return self.experiment.name

    @property
    def n(self) -> int:
        """Number of runs."""
        return len(self.runs)

    @property
    def top1s(self) -> list[float]:
        """Test top-1 of each run in percent."""
        return self.values("top1")

    @property
    def step_ratio(self) -> float | None:
        """Median of ``step_ratios``."""
        return statistics.median(self.step_ratios) if self.step_ratios else None

    @property
    def step_time(self) -> str:
        """``×1.3 (1.2–1.5)``: median and range over the seeds, the range unless it is nothing."""
        if self.step_ratio is None:
            return DASH
        low, high = f"{min(self.step_ratios):.1f}", f"{max(self.step_ratios):.1f}"
        return f"×{self.step_ratio:.1f}" + (f" ({low}–{high})" if low != high else "")

    @property
    def passes(self) -> str:
        """Passes per step as the runs say it."""
        return " / ".join(
            dict.fromkeys(str(r.summary.get("passes_per_step", DASH)) for r in self.runs)
        )

    def values(self, key: str) -> list[float]:
        """A number of every run that has it."""
        return [v for run in self.runs if (v := run.number(key)) is not None]

    def median(self, key: str) -> float | None:
        """Median over the runs that have ``key``."""
        values = self.values(key)
        return statistics.median(values) if values else None

    def as_dict(self) -> dict[str, Any]:
        """The row for ``compare.json``."""
        mean, std = mean_std(self.top1s)
        train_mean, train_std = mean_std(self.values("train_top1"))
        return {
            "label": self.label,
            "run_label": self.experiment.label,
            "differs": self.experiment.differs,
            "method": self.method,
            "passes_per_step": self.passes,
            "n": self.n,
            "seeds": [run.seed for run in self.runs],
            "updates": self.median("steps"),
            "samples": self.median("samples"),
            "device_seconds": self.median("device_seconds"),
            "step_s": self.median("step_s"),
            "step_time_vs_sgd": self.step_ratio,
            "step_time_vs_sgd_pairs": list(self.step_ratios),
            "top1": self.top1s,
            "top1_mean": mean,
            "top1_std": std,
            "train_top1_mean": train_mean,
            "train_top1_std": train_std,
            "runs": [str(run.path) for run in self.runs],
        }


@dataclass(frozen=True)
class Comparison:
    """Rows in their order and what has to be said below them."""

    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    left_out: tuple[tuple[Path, str], ...]

    def row(self, label: str) -> Row | None:
        """The row of a label."""
        return next((row for row in self.rows if row.label == label), None)

    def cells(self, row: Row) -> list[str]:
        """A row as text."""
        return [
            row.label,
            row.passes,
            whole(row.median("steps")),
            whole(row.median("samples")),
            seconds(row.median("device_seconds")),
            row.step_time,
            plus_minus(row.top1s),
            str(row.n),
            plus_minus(row.values("train_top1")),
        ]

    def text(self) -> str:
        """The table for a terminal."""
        lines = columns(
            [*map(list, zip(*HEADER, strict=True)), *map(self.cells, self.rows)],
            num_left=2,
            num_heads=2,
        )
        return "\n".join([*lines, "", *(f"- {note}" for note in self.notes)])

    def markdown(self) -> str:
        """The table for ``compare.md``."""
        lines = [
            "# Comparison",
            "",
            _bars([" ".join(filter(None, name)) for name in HEADER]),
            _bars(["---"] * 2 + ["---:"] * (len(HEADER) - 2)),
            *(_bars(self.cells(row)) for row in self.rows),
            "",
            *(f"- {note}" for note in self.notes),
            "",
            "![test top-1 against training progress, and final top-1 of every seed](compare.png)",
        ]
        return "\n".join(lines) + "\n"

    def as_dict(self) -> dict[str, Any]:
        """Everything, for ``compare.json``."""
        return {
            "rows": [row.as_dict() for row in self.rows],
            "notes": list(self.notes),
            "left_out": [{"run": str(path), "reason": reason} for path, reason in self.left_out],
        }


def columns(table: Sequence[Sequence[str]], num_left: int, num_heads: int) -> list[str]:
    """A table's lines with aligned columns.

    Args:
        table: cells by row, all rows of one length.
        num_left: columns that are aligned on their left, from the first.
        num_heads: rows above the rule.
    """
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i < num_left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
    lines.insert(num_heads, "  ".join("-" * width for width in widths))
    return lines


def build(runs: Sequence[Run], left_out: Sequence[tuple[Path, str]] = ()) -> Comparison:
    """Group runs by experiment into ordered rows with their footnotes."""
    baseline = _baseline_steps(runs)
    rows = []
    for experiment in group(runs):
        own = sorted(experiment.runs, key=lambda run: (str(run.seed), run.path))
        ratios = []
        for run in own:
            sgd_step_s = baseline.get(_circumstances(run))
            if sgd_step_s:
                ratios.append(float(run.summary["step_s"]) / sgd_step_s)
        methods = " / ".join(dict.fromkeys(str(run.summary["method"]) for run in own))
        rows.append(Row(experiment, methods, tuple(own), tuple(ratios)))
    rows.sort(
        key=lambda row: (
            _place(row.experiment.label),
            _place(row.method),
            row.experiment.label,
            row.label,
        )
    )
    return Comparison(tuple(rows), tuple(_notes(rows, left_out)), tuple(left_out))


def _place(name: str) -> int:
    return ORDER.index(name) if name in ORDER else len(ORDER)


def mean_std(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation; None where there are too few values."""
    if not values:
        return None, None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def plus_minus(values: Sequence[float]) -> str:
    """``93.9 ± 0.6``, or the value alone if there is one."""
    mean, std = mean_std(values)
    if mean is None:
        return DASH
    return f"{mean:.1f}" if std is None else f"{mean:.1f} ± {std:.1f}"


def whole(value: float | None) -> str:
    """A count with separators."""
    return DASH if value is None else f"{value:,.0f}"


def seconds(value: float | None) -> str:
    """Device-seconds: a digit behind the point below 100."""
    return DASH if value is None else f"{value:,.{1 if value < 100 else 0}f}"


def _circumstances(run: Run) -> tuple[Any, ...]:
    """What two runs must share for their step times to be compared."""
    return tuple(run.summary.get(key) for key in ("session", "seed", "world_size", "device"))


def _baseline_steps(runs: Sequence[Run]) -> dict[tuple[Any, ...], float]:
    """Median step time of sgd by circumstances; sgd is that label, else the method if alone."""
    sgd = [run for run in runs if run.label == "sgd"]
    if not sgd:
        sgd = [run for run in runs if run.summary["method"] == "sgd"]
        if len({run.label for run in sgd}) != 1:
            return {}
    times: dict[tuple[Any, ...], list[float]] = {}
    for run in sgd:
        if run.summary.get("session"):  # "" is a run that was trained alone
            times.setdefault(_circumstances(run), []).append(float(run.summary["step_s"]))
    return {key: statistics.median(values) for key, values in times.items()}


def _notes(rows: Sequence[Row], left_out: Sequence[tuple[Path, str]]) -> list[str]:
    runs = [run for row in rows for run in row.runs]
    notes = [f"Trained with {setting(runs)}."]
    if any(row.n > 1 for row in rows):
        notes.append("± is the sample standard deviation over n runs; other columns are medians.")
    notes.append("Device s: wall-clock seconds of training × devices.")
    if any(row.step_ratio is not None for row in rows):
        notes.append(
            "Step time × SGD: median time of one update over that of the sgd run of the same seed "
            "and session, on as many devices; median over seeds, and their range. It is time, not "
            "work: a method with more passes on parallel devices can be near ×1."
        )
    if times_are_overheads(rows):
        notes.append(SMALL_TIMES)
    if any(row.step_ratio is None for row in rows):
        missing = ", ".join(row.label for row in rows if row.step_ratio is None)
        notes.append(f"No step-time ratio for {missing}: no sgd run of the same seed and session.")
    if any(row.values("train_top1") for row in rows):
        notes.append(
            "Train top-1: counted while training, on the training labels (noisy where they are), "
            "at the weights the method trains with: perturbed for rwp, arwp, sam and asam."
        )
    if any(row.method in MIXED for row in rows):
        notes.append(
            "One update of m-rwp or m-arwp consumes two mini-batches, one clean and one "
            "perturbed; the column `samples` counts both."
        )
    skipped = {row.label: sum(row.values("skipped_steps")) for row in rows}
    if any(skipped.values()):
        text = ", ".join(f"{label} {n:.0f}" for label, n in skipped.items() if n)
        notes.append(f"Updates skipped because of non-finite gradients: {text}.")
    notes += _splits(rows)
    notes += _doubts(rows)
    if left_out:
        text = "; ".join(f"{path} ({reason})" for path, reason in left_out)
        notes.append(f"Left out: {text}.")
    return notes


def setting(runs: Sequence[Run]) -> str:
    """``2 ranks on cpu, model small_cnn``."""
    worlds = sorted({int(w) for run in runs if (w := run.number("world_size")) is not None})
    ranks = " or ".join(map(str, worlds))
    devices = list(dict.fromkeys(str(d) for run in runs if (d := run.summary.get("device"))))
    models = list(dict.fromkeys(str(m) for run in runs if (m := run.summary.get("model"))))
    text = f"{ranks or 'an unknown number of'} rank{'' if ranks == '1' else 's'}"
    return (
        text
        + f" on {' or '.join(devices) or 'unknown devices'}"
        + (f", model {' or '.join(models)}" if models else "")
    )


def times_are_overheads(rows: Sequence[Row]) -> bool:
    """Whether step times are shown of a network too small for them to mean much."""
    sizes = [n for row in rows if row.step_ratios for n in row.values("num_parameters")]
    return bool(sizes) and min(sizes) < SMALL_NETWORK


def _splits(rows: Sequence[Row]) -> list[str]:
    """Why a label has several rows."""
    notes = []
    for label in dict.fromkeys(row.experiment.label for row in rows):
        own = [row for row in rows if row.experiment.label == label]
        if len(own) == 1:
            continue
        columns = [row.experiment.differs for row in own if row.runs[0].settings is not None]
        keys = list(columns[0]) if columns else []
        texts = [f"{key} ({' | '.join(c[key] for c in columns)})" for key in keys[:8]]
        if len(keys) > 8:
            texts.append(f"{len(keys) - 8} more")
        what = f"settings differ: {', '.join(texts)}" if texts else "settings differ"
        unread = [row for row in own if row.runs[0].settings is None]
        if unread:
            what += f"; {sum(row.n for row in unread)} of them without a readable config.yaml"
        notes.append(f"Runs of {label} stand in {len(own)} rows, because their {what}.")
    return notes


def _doubts(rows: Sequence[Row]) -> list[str]:
    """What makes rows less comparable than they look."""
    doubts = []
    runs = [run for row in rows for run in row.runs]
    for key in ("model", "world_size", "device", "num_parameters"):
        if len({str(run.summary.get(key)) for run in runs}) > 1:
            doubts.append(f"Careful: the runs differ in {key}, so this is not one comparison.")
    for row in rows:
        for key in ("steps", "samples", "method_settings", "passes_per_step"):
            if len({str(run.summary.get(key)) for run in row.runs}) > 1:
                doubts.append(
                    f"Careful: runs of {row.label} differ in {key.replace('_', ' ')}; "
                    f"give each its own variant."
                )
        seeds = [run.seed for run in row.runs]
        repeated = sorted({str(seed) for seed in seeds if seeds.count(seed) > 1})
        if repeated:
            doubts.append(
                f"Careful: {row.label} has several runs of seed {', '.join(repeated)}; "
                f"they count as separate runs."
            )
    return doubts


def _bars(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
