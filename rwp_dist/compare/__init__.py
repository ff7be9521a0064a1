"""``rwp-dist compare``: several runs as tables, a picture and a report.

Numbers come from ``summary.json`` and ``measured/`` of the run directories, curves from
``metrics.jsonl``, and ``config.yaml`` tells which runs are seeds of one experiment.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rwp_dist.base import disk
from rwp_dist.base.errors import RwpError
from rwp_dist.base.files import write_bytes, write_json, write_text
from rwp_dist.compare.columns import check_columns, flatness_keys
from rwp_dist.compare.comparison import Comparison
from rwp_dist.compare.curves import AXES
from rwp_dist.compare.estimates import Estimate, estimate
from rwp_dist.compare.marks import marked
from rwp_dist.compare.notes import make_notes
from rwp_dist.compare.pairs import against
from rwp_dist.compare.plot import STYLES
from rwp_dist.compare.rows import make_rows
from rwp_dist.compare.runs import collect
from rwp_dist.config import Settings, get_setting
from rwp_dist.record.identity import OTHERS

__all__ = ["AXES", "STYLES", "Comparison", "Estimate", "compare", "comparison_of", "estimate"]


def compare(
    paths: Sequence[Path],
    out: Path,
    by: Sequence[str] = (),
    baseline: str | None = None,
    columns: Sequence[str] = (),
    flatness: bool = False,
    x: str = "device",
    html: bool = False,
) -> str:
    """Write ``compare.md``, ``.json``, ``.csv``, ``.tex`` and ``.png`` into ``out``.

    Args:
        paths: run directories, or folders that have some at any depth.
        out: folder of the files; made if it is missing.
        by: keys of settings, such as ``method.sigma``, or of an identity, such as ``torch``. Runs
            with one label and test set are one row if they agree in these; without any, if they
            agree in all settings that affect the result, and in the content of their data.
        baseline: a row, by what the table calls it, against which all others are compared seed by
            seed.
        columns: keys of ``summary.json``, or of what other commands measured, such as
            ``train_top1`` or ``bits.4.top1``, which the table shows besides.
        flatness: whether it shows all that ``rwp-dist flatness`` measured as well.
        x: what the curves are drawn over, one of ``AXES``.
        html: whether to write ``compare.html`` as well.

    Returns:
        The table with its notes, aligned for a terminal.

    Raises:
        ConfigError: ``by`` or ``columns`` has an unknown key, or no row is called ``baseline``.
        RwpError: a path is missing, no finished run is among them, no flatness was measured, or
            ``out`` cannot be written.
    """
    comparison = comparison_of(paths, by, baseline, columns, flatness, x)
    from rwp_dist.compare.plot import boxes_in, picture  # matplotlib takes a second to import

    if boxes := boxes_in(comparison):
        note = f"Pictures show boxes for what no font of this machine has: {' '.join(boxes)}."
        comparison = replace(comparison, notes=[*comparison.notes, note])

    try:
        write_text(out / "compare.md", comparison.markdown())
        write_json(out / "compare.json", comparison.as_dict())
        write_text(out / "compare.csv", comparison.csv())
        write_text(out / "compare.tex", comparison.latex())
        write_bytes(out / "compare.png", picture(comparison))
        if html:
            from rwp_dist.compare.pictures import pictures_of
            from rwp_dist.compare.report import report

            flat = pictures_of([run.path for run in comparison.runs], out, "flatness*.png")
            write_text(out / "compare.html", report(comparison, flat))
    except OSError as error:
        raise disk.unwritable(out, error, "give --out") from None
    return comparison.text()


def comparison_of(
    paths: Sequence[Path],
    by: Sequence[str] = (),
    baseline: str | None = None,
    columns: Sequence[str] = (),
    flatness: bool = False,
    x: str = "device",
) -> Comparison:
    """The comparison that ``compare`` writes, with the same arguments.

    Raises:
        ConfigError: ``by`` or ``columns`` has an unknown key, or no row is called ``baseline``.
        RwpError: a path is missing, no finished run is among them, or no flatness was measured.
    """
    runs, left_out = collect(paths)
    for key in by:
        if key not in OTHERS and not any(key in run.identity for run in runs):
            get_setting(Settings(), key)  # refuses what is no setting
    if not runs:
        found = "; ".join(f"{path}: {why}" for path, why in list(left_out.items())[:5])
        raise RwpError(
            "no finished run to compare" + (f" ({found})" if found else ""),
            cure="name run directories, or a folder of them, whose training has finished",
        )
    rows, marks = marked(make_rows(runs, by))
    check_columns(rows, columns)
    columns = [*columns, *(flatness_keys(rows) if flatness else ())]
    differences = against(rows, baseline) if baseline is not None else None
    notes = make_notes(rows, left_out, by, columns, AXES[x], marks, differences)
    return Comparison(rows, notes, left_out, AXES[x], columns, differences, marks)
