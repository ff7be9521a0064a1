"""A table of cells: for a terminal, in Markdown and in LaTeX."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rwp_dist.base.text import table as aligned

LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"},
    **{"±": r"$\pm$", "×": r"$\times$", "–": "--", "—": "---"},
}


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

    def lines(self) -> list[str]:
        """For a terminal."""
        heads = [list(line) for line in zip(*self.heads, strict=True) if any(line)]
        cells = [[cell.text for cell in row] for row in self.rows]
        return aligned([*heads, *cells], num_left=1, num_heads=len(heads))

    def markdown(self) -> list[str]:
        """Lines of a Markdown table."""
        return [
            _bars([str(head) for head in self.heads]),
            _bars(["---", *["---:"] * (len(self.heads) - 1)]),
            *(_bars([cell.text for cell in row]) for row in self.rows),
        ]

    def latex(self) -> list[str]:
        """Lines of a ``tabular`` with the rules of the package booktabs."""
        heads, *rows = (
            " & ".join(map(latex_text, line)) + r" \\"
            for line in [
                [str(head) for head in self.heads],
                *([cell.text for cell in row] for row in self.rows),
            ]
        )
        columns = "l" + "r" * (len(self.heads) - 1)
        return [
            rf"\begin{{tabular}}{{{columns}}}",
            *(r"\toprule", heads, r"\midrule", *rows, r"\bottomrule"),
            r"\end{tabular}",
        ]


def latex_text(text: str) -> str:
    """Text for LaTeX, with its special characters escaped and minus signs as such."""
    escaped = re.sub(".", lambda match: LATEX.get(match[0], match[0]), text)
    return re.sub(r"(?<!\S)-(?=\d)", "$-$", escaped)


def _bars(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
