"""Names of any script and any length, in every format and in the picture."""

import csv
import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from support.comparisons import make

from rwp_dist.base.fonts import fonts_for
from rwp_dist.base.text import visible, width
from rwp_dist.compare import compare, comparison_of
from rwp_dist.compare.table import markdown_text

NAMES = (
    "cost_$5_vs_$6", "wd=1e-4_$lr_$", r"a\$b \alpha", "_under_", "p|q *r* `s` [t](u) <b>&amp;",
    "数据集", "שלום עולם", "نموذج", "e\u0301te\u0301", "👩\u200d🚀 😀", "two\nlines\tand\x1b[31m",
    "a\u200bb \u202eend",
)  # fmt: skip


def named(folder: Path, label: str, number: int = 0) -> None:
    run = make(folder / str(number), "rwp", 0, 80.0 + number, 0.1)
    run.write_summary((run.read_summary() or {}) | {"label": label})


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_shown_as_it_is(tmp_path: Path, name: str) -> None:
    named(tmp_path / "runs", name)
    lines = compare([tmp_path / "runs"], tmp_path, html=True).splitlines()
    shown = visible(name)
    assert lines[3].startswith(shown)
    assert width(lines[3].replace("\u200e", "")) == width(lines[1])  # aligned, on one line
    assert f"| {markdown_text(name)} |" in (tmp_path / "compare.md").read_text()
    assert json.loads((tmp_path / "compare.json").read_text())["rows"][0]["label"] == name
    with (tmp_path / "compare.csv").open(newline="", encoding="utf-8") as file:
        assert next(csv.DictReader(file))["row"] == name


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_drawn_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    figures: list[Figure] = []
    real = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **b: (figures.append(self), real(self, *a, **b))
    )
    named(tmp_path / "runs", name)
    compare([tmp_path / "runs"], tmp_path)  # a warning would be an error here
    ticks = [label for axes in figures[0].axes for label in axes.get_yticklabels()]
    whole = "".join(visible(name).split())
    [drawn] = [label for label in ticks if "".join(label.get_text().split()) == whole]
    assert not drawn.get_parse_math()


def test_what_no_font_has_is_a_box_and_said(tmp_path: Path) -> None:
    named(tmp_path / "runs", "x\U00012000")  # cuneiform
    note = "boxes for what no font of this machine has: \U00012000."
    assert note in compare([tmp_path / "runs"], tmp_path)
    assert note in (tmp_path / "compare.md").read_text()
    named(tmp_path / "other", "é σ Ж")
    assert "boxes" not in compare([tmp_path / "other"], tmp_path)


def test_another_font_helps_where_the_first_has_no_such_letter() -> None:
    import matplotlib

    only_in_another = "\u2a10"  # STIX, which comes with matplotlib, has it
    with matplotlib.rc_context({"font.family": ["cmr10"]}), fonts_for([only_in_another]) as boxes:
        assert boxes == "" and len(matplotlib.rcParams["font.family"]) == 2
        assert not matplotlib.rcParams["text.parse_math"]
    assert matplotlib.rcParams["text.parse_math"]


def test_long_names_stay_distinct_in_text_and_picture(tmp_path: Path) -> None:
    for number, end in enumerate("ab"):
        named(tmp_path, "long " * 60 + end, number)
    rows = comparison_of([tmp_path]).rows
    titles = {row.title for row in rows}
    assert len(titles) == 2 and max(map(len, titles)) <= 80
    assert {row.name for row in rows} == {"long " * 60 + end for end in "ab"}


def test_names_that_look_alike_are_numbered(tmp_path: Path) -> None:
    for number, name in enumerate(("été", "e\u0301te\u0301")):
        named(tmp_path, name, number)
    assert sorted(len(row.name) for row in comparison_of([tmp_path]).rows) == [5, 7]  # one has (2)
