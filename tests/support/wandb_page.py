"""The tables of docs/wandb.md, from the code.

``python tests/support/wandb_page.py`` writes them.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from rwp_dist.dashboard.panels import SECTIONS, Panel
from rwp_dist.tracking.columns import COLUMNS

PAGE = Path(__file__).parents[2] / "docs" / "wandb.md"
KINDS = {
    "train": "Every `tracking.log_every` updates:",
    "eval": "At every evaluation:",
    "checkpoint": "At every checkpoint:",
}


def panels() -> str:
    """A table for each section of the dashboard."""
    parts = []
    for section in SECTIONS:
        rows = [(p.title, shown(p), p.meaning.replace("|", "\\|")) for p in section.panels]
        state = "open" if section.is_open else "closed"
        head = f"**{section.title}** ({state} in a new view)"
        parts += [head, table(("panel", "shows", "look for"), rows)]
    return "\n\n".join(parts)


def shown(panel: Panel) -> str:
    """What a panel draws."""
    names = ", ".join(f"`{name}`" for name in panel.y)
    over = "" if panel.kind == "bars" or panel.x == "global_step" else f" over `{panel.x}`"
    by = ", by method" if panel.group == "method" else ""
    return f"{'bars of ' if panel.kind == 'bars' else ''}{names}{over}{by}"


def metrics() -> str:
    """A table for each kind of record."""
    parts = []
    for kind, columns in COLUMNS.items():
        rows = [(f"`{c.name}`", c.unit, c.meaning.replace("|", "\\|")) for c in columns]
        parts += [KINDS[kind], table(("name", "unit", "meaning"), rows)]
    return "\n\n".join(parts)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def with_tables(text: str) -> str:
    """The page with its tables as they should be: between `<!-- NAME -->` and `<!-- end -->`."""
    for name, made in (("panels", panels()), ("metrics", metrics())):
        place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.S)
        text, count = place.subn(lambda found, made=made: f"{found[1]}\n{made}\n\n{found[2]}", text)
        assert count == 1, name
    return text


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
