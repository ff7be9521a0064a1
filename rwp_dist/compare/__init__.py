"""``rwp-dist compare``: several runs as one table and one picture.

Everything comes from the run directories: numbers from ``summary.json``, curves from the
evaluations in ``metrics.jsonl``.
"""

from collections.abc import Sequence
from pathlib import Path

from rwp_dist.base.errors import RwpError
from rwp_dist.compare.runs import collect
from rwp_dist.compare.table import Comparison, build
from rwp_dist.record.directory import write_json, write_text

__all__ = ["Comparison", "compare"]


def compare(paths: Sequence[Path], out: Path) -> str:
    """Write ``compare.md``, ``compare.json`` and ``compare.png`` into ``out``.

    Args:
        paths: run directories, or folders that hold some at any depth.
        out: folder of the three files; made if it is missing.

    Returns:
        The table with its footnotes, aligned for a terminal.

    Raises:
        RwpError: a path is missing, no finished run is among them, or ``out`` cannot be written.
    """
    runs, left_out = collect(paths)
    if not runs:
        known = "; ".join(f"{path}: {reason}" for path, reason in left_out[:5])
        raise RwpError(
            "No finished run to compare"
            + (f" ({known})" if known else "")
            + "; name run directories, or a folder of them, whose training has finished."
        )
    table = build(runs, left_out)
    from rwp_dist.compare.plot import draw

    try:
        write_text(out / "compare.md", table.markdown())
        write_json(out / "compare.json", table.as_dict())
        draw(table, out / "compare.png")
    except OSError as error:
        raise RwpError(
            f"{out}: cannot be written ({error}); name another folder with --out."
        ) from None
    return table.text()
