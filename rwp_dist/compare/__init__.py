"""``rwp-dist compare``: several runs as one table and one picture.

Numbers come from ``summary.json`` of the run directories, curves from ``metrics.jsonl``, and
``config.yaml`` tells which runs are seeds of one experiment.
"""

from collections.abc import Sequence
from pathlib import Path

from rwp_dist.base.errors import RwpError
from rwp_dist.base.files import write_json, write_text
from rwp_dist.compare.notes import make_notes
from rwp_dist.compare.pairs import against
from rwp_dist.compare.rows import make_rows
from rwp_dist.compare.runs import collect
from rwp_dist.compare.table import Comparison
from rwp_dist.config import Settings, get_setting

__all__ = ["Comparison", "compare"]


def compare(
    paths: Sequence[Path], out: Path, by: Sequence[str] = (), baseline: str | None = None
) -> str:
    """Write ``compare.md``, ``compare.json`` and ``compare.png`` into ``out``.

    Args:
        paths: run directories, or folders that have some at any depth.
        out: folder of the three files; made if it is missing.
        by: keys of settings, such as ``method.sigma``. Runs with one label are one row if they
            agree in these; without any, if they agree in all settings that affect the result.
        baseline: a row, by what the table calls it, against which all others are compared seed by
            seed.

    Returns:
        The table with its notes, aligned for a terminal.

    Raises:
        ConfigError: ``by`` has an unknown key, or no row is called ``baseline``.
        RwpError: a path is missing, no finished run is among them, or ``out`` cannot be written.
    """
    for key in by:
        get_setting(Settings(), key)
    runs, left_out = collect(paths)
    if not runs:
        found = "; ".join(f"{path}: {why}" for path, why in list(left_out.items())[:5])
        raise RwpError(
            "no finished run to compare" + (f" ({found})" if found else ""),
            cure="name run directories, or a folder of them, whose training has finished",
        )
    rows = make_rows(runs, by)
    differences = against(rows, baseline) if baseline is not None else None
    comparison = Comparison(rows, make_notes(rows, left_out, by), left_out, differences)
    from rwp_dist.compare.plot import draw  # matplotlib takes a second to import

    try:
        write_text(out / "compare.md", comparison.markdown())
        write_json(out / "compare.json", comparison.as_dict())
        draw(comparison, out / "compare.png")
    except OSError as error:
        raise RwpError(
            f"{out}: cannot be written ({error})", cure="name another folder with --out"
        ) from None
    return comparison.text()
