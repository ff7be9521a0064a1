"""``compare.html``: everything about a comparison on one page, which needs no other file.

Texts of run directories are escaped, and the page's policy lets no script run but its own.
"""

import base64
import hashlib
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from rwp_dist import __version__
from rwp_dist.base.text import DASH, visible
from rwp_dist.base.urls import shown_text
from rwp_dist.compare.columns import head_of, value_cells
from rwp_dist.compare.comparison import Comparison
from rwp_dist.compare.notes import conditions
from rwp_dist.compare.pictures import as_far_as_there_is_room
from rwp_dist.compare.plot import panels, which_rows
from rwp_dist.compare.rows import (
    SPLITTING,
    Row,
    differing_keys,
    short_texts,
    value_of,
    value_text,
)
from rwp_dist.compare.runs import Run
from rwp_dist.compare.table import Cell, Head, Table
from rwp_dist.config import Affects
from rwp_dist.record.identity import COMMIT_UNKNOWN, OTHERS

OF_A_RUN = ("seed", "top1", "steps", "samples", "device_seconds", "wall_s")


def report(comparison: Comparison, drawn: Sequence[Path] = ()) -> str:
    """The page.

    Args:
        comparison: what it is about.
        drawn: PNG files that other commands drew of the same runs.
    """
    here = Path(__file__)
    script = here.with_suffix(".js").read_text(encoding="utf-8")
    pictures, left_out = as_far_as_there_is_room(drawn)
    template = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    ).from_string(here.with_suffix(".html").read_text(encoding="utf-8"))
    names = [visible(row.name) for row in comparison.rows]
    return template.render(
        title=f"Comparison of {', '.join(names) if len(names) < 9 else f'{len(names)} methods'}",
        comparison=comparison,
        conditions=conditions(comparison.rows),
        version=__version__,
        panels=[(encoded(png), what) for what, png in panels(comparison)],
        which_rows=which_rows(comparison),
        measured={
            ", ".join(filter(None, (kind, part.test_set))): table
            for part in comparison.parts
            for kind, table in measured_tables(part.rows).items()
        },
        pictures=pictures,
        left_out=left_out,
        settings=settings_table(comparison.rows),
        runs=runs_table(comparison.rows),
        environments=environments(comparison.runs),
        commands=commands(comparison.runs),
        script=Markup(script),
        script_hash=encoded(hashlib.sha256(script.encode()).digest()),
    ).lstrip()


def encoded(data: bytes) -> str:
    """As base64."""
    return base64.b64encode(data).decode()


def measured_tables(rows: Sequence[Row]) -> dict[str, Table]:
    """A table for each kind of number, with a line for each number and a column for each row."""
    keys = sorted({key for row in rows for run in row.runs for key in run.measured}, key=natural)
    kinds: dict[str, list[str]] = {}
    for key in keys:
        kind = key.split(".")[0] if "." in key else "evaluation"
        kinds.setdefault(kind.replace("_", " "), []).append(key)
    heads = [Head("", "number"), *(Head("", row.title) for row in rows)]
    return {
        kind: Table(heads, [[Cell(str(head_of(key))), *value_cells(rows, key)] for key in own])
        for kind, own in kinds.items()
    }


def natural(key: str) -> list[tuple[float, str]]:
    """To sort keys so that numbers in them count as numbers."""
    parts = re.findall(r"\d+(?:\.\d+)?|[^\d.]+", key)
    return [(float(part), "") if part[0].isdigit() else (-1.0, part) for part in parts]


def settings_table(rows: Sequence[Row]) -> Table:
    """A line for each setting that is not the same everywhere."""
    lines = []
    runs = [run for row in rows for run in row.runs]
    short = {key: short_texts(value_of(run, key) for run in runs) for key in OTHERS}
    told = [key for key in OTHERS if len(short[key]) > 1]
    for key in (*differing_keys(runs, (*SPLITTING, Affects.PLACE)), *told):
        cells = []
        for row in rows:
            values = [value_of(run, key) for run in row.runs]
            texts = dict.fromkeys(map(value_text, values))
            text = " / ".join(short[key][text] if key in short else text for text in texts)
            number = isinstance(values[0], int | float) and not isinstance(values[0], bool)
            cells.append(Cell(text, float(values[0]) if number else None))
        lines.append([Cell(key), *cells])
    return Table([Head("", "setting"), *(Head("", row.title) for row in rows)], lines)


def runs_table(rows: Sequence[Row]) -> Table:
    """A line for each run."""
    heads = [Head("", "run"), *map(head_of, OF_A_RUN), Head("", "directory")]
    return Table(heads, [run_cells(row.name, run) for row in rows for run in row.runs])


def run_cells(name: str, run: Run) -> list[Cell]:
    """What a run took and where it ended; numbers with six digits."""
    numbers = [run.number(key) for key in OF_A_RUN]
    cells = [Cell(DASH if number is None else f"{number:,.6g}", number) for number in numbers]
    return [Cell(name), *cells, Cell(str(run.path))]


def environments(runs: Sequence[Run]) -> dict[str, str]:
    """What runs were trained with; if they differ, every value and how many runs have it."""
    found: dict[str, Counter[str]] = {}
    for run in runs:
        for name, value in environment_of(run).items():
            found.setdefault(name, Counter())[value] += 1
    return {
        name: next(iter(counts))
        if list(counts.values()) == [len(runs)]
        else "; ".join(f"{value} ({n} of {len(runs)} runs)" for value, n in counts.items())
        for name, counts in found.items()
    }


def environment_of(run: Run) -> dict[str, str]:
    """Of one run, by what a reader calls it; what is not known is left out."""
    known = run.environment
    gpus = [f"{n} × {gpu}" for gpu, n in Counter(map(str, known.get("gpus", []))).items()]
    code = ("rwp-dist", "code", "commit", COMMIT_UNKNOWN, "ranks")
    named = {
        **{key: run.identity.get(key) for key in code},
        "GPUs": ", ".join(gpus) or None,
        "CPUs": known.get("num_cpus"),
        "Python": known.get("python"),
        **known.get("packages", {}),
        "system": known.get("platform"),
    }
    return {name: str(value) for name, value in named.items() if value is not None}


def commands(runs: Sequence[Run]) -> list[str]:
    """What was started, each command once, with its commit above it."""
    lines: dict[str, None] = {}
    for run in runs:
        git = run.environment.get("git") or {}
        if git.get("commit"):
            lines[f"git checkout {shlex.quote(str(git['commit']))}"] = None
        lines[command(run.environment) or f"# unknown: {run.path} has no environment.json"] = None
    return list(lines)


def command(environment: dict[str, Any]) -> str | None:
    """One line for a shell; the ranks of several machines are started on one."""
    program, *words = map(str, environment.get("argv") or [""])
    if not program:
        return None
    ranks = environment.get("world_size") or 1
    if Path(program).name not in ("__main__.py", "rwp-dist"):
        start = ["python", program]
    elif ranks > 1:
        start = ["torchrun", "--nproc-per-node", str(ranks), "-m", "rwp_dist"]
    else:
        start = ["rwp-dist"]
    return shlex.join([*start, *map(shown_text, words)])
