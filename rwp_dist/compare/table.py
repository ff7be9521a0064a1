"""A table of cells: for a terminal, in Markdown and in LaTeX."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from rwp_dist.base.text import table as aligned
from rwp_dist.base.text import visible

LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"},
    **{"±": r"$\pm$", "×": r"$\times$", "–": "--", "—": "---"},
}
MARKDOWN = re.compile(r"[\\`*$|<&~\[]|(?<!\w)_|_(?!\w)")


class Head(NamedTuple):
    """What is above a column, on two lines, so that the table stays narrow."""

    group: str
    name: str

    def __str__(self) -> str:
        return " ".join(filter(None, self))


class Cell(NamedTuple):
    """A cell, and the number by which a report sorts it; None: it is sorted by its text."""

    text: str
    value: float | None = None


@dataclass(frozen=True)
class Table:
    """The first column names the rows and is left-aligned; the others are right-aligned."""

    heads: Sequence[Head]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    """What stands above it."""

    @cached_property
    def shown_heads(self) -> list[Head]:
        """The heads without characters that nobody sees."""
        return [Head(*map(visible, head)) for head in self.heads]

    @cached_property
    def shown_rows(self) -> list[list[Cell]]:
        """The rows likewise."""
        return [[cell._replace(text=visible(cell.text)) for cell in row] for row in self.rows]

    def lines(self) -> list[str]:
        """For a terminal."""
        heads = [list(line) for line in zip(*self.shown_heads, strict=True) if any(line)]
        cells = [[cell.text for cell in row] for row in self.shown_rows]
        title = [f"{visible(self.title)}:"] if self.title else []
        return [*title, *aligned([*heads, *cells], num_left=1, num_heads=len(heads))]

    def markdown(self) -> list[str]:
        """Lines of a Markdown table."""
        title = [f"{markdown_text(self.title)}:", ""] if self.title else []
        return [
            *title,
            _bars([str(head) for head in self.shown_heads]),
            _bars(["---", *["---:"] * (len(self.heads) - 1)]),
            *(_bars([cell.text for cell in row]) for row in self.shown_rows),
        ]

    def latex(self) -> list[str]:
        """Lines of a ``tabular`` with the rules of the package booktabs."""
        heads, *rows = (
            " & ".join(map(latex_text, line)) + r" \\"
            for line in [
                [str(head) for head in self.shown_heads],
                *([cell.text for cell in row] for row in self.shown_rows),
            ]
        )
        title = rf"\multicolumn{{{len(self.heads)}}}{{l}}{{{latex_text(visible(self.title))}}} \\"
        columns = "l" + "r" * (len(self.heads) - 1)
        return [
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            *([title] if self.title else []),
            *(heads, r"\midrule", *rows, r"\bottomrule"),
            r"\end{tabular}",
        ]


def latex_text(text: str) -> str:
    """Text for LaTeX, with its special characters escaped and minus signs as such."""
    escaped = re.sub(".", lambda match: LATEX.get(match[0], match[0]), text)
    return re.sub(r"(?<!\S)-(?=\d+(?:\.\d+)?(?:[eE][-+]?\d+)?(?!\w))", "$-$", escaped)


def markdown_text(text: str, *, code: bool = False) -> str:
    """Text for Markdown, with its special characters escaped.

    ``code``: what is between backticks is code, and stays.
    """
    parts = visible(text).split("`") if code and text.count("`") % 2 == 0 else [visible(text)]
    parts[::2] = [MARKDOWN.sub(r"\\\g<0>", part) for part in parts[::2]]
    return "`".join(parts)


def _bars(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(markdown_text, cells)) + " |"
