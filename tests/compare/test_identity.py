"""Rows go by what runs are, not by where their data lie; what else differs is said beside them."""

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from support.comparisons import configure, forget, id_of, make, numbers

from rwp_dist.base.errors import ConfigError
from rwp_dist.compare import compare, comparison_of
from rwp_dist.compare.plot import draw_ends, panels
from rwp_dist.record.directory import RunDir


def run_of(folder: Path, label: str, seed: int, *settings: str, **identity: Any) -> RunDir:
    run = make(folder, label, seed, 90.0 + seed, 0.01)
    configure(run, f"run.seed={seed}", f"method.name={label}", *settings, **identity)
    return run


def names(folder: Path, *by: str) -> list[str]:
    return [row.name for row in comparison_of([folder], by).rows]


def change(run: RunDir, key: str, value: Any) -> None:
    run.write_summary((run.read_summary() or {}) | {key: value})


def software(run: RunDir, **identity: Any) -> None:
    summary = run.read_summary() or {}
    change(run, "identity", summary["identity"] | identity)


def test_the_same_data_elsewhere_are_one_row_and_others_in_one_place_are_two(
    tmp_path: Path,
) -> None:
    run_of(tmp_path, "sgd", 0)
    here = id_of("data/digits/train")
    run_of(tmp_path, "sgd", 1, "data.train=/node7/t", "data.val=/x", data_train_id=here,
           data_val_id=id_of("data/digits/test"))  # fmt: skip
    assert names(tmp_path) == ["sgd"]
    run_of(tmp_path, "sgd", 2, data_train_id="3f2a91" + "0" * 10)
    assert names(tmp_path) == ["sgd, data.train=3f2a91", f"sgd, data.train={here[:6]}"]
    run_of(tmp_path, "sgd", 3, data_train_id="3f2a91" + "1" * 10)
    assert names(tmp_path)[:2] == ["sgd, data.train=3f2a910", "sgd, data.train=3f2a911"]


def test_runs_that_began_from_other_weights_are_other_rows(tmp_path: Path) -> None:
    for seed in (0, 1):
        run_of(tmp_path, "sgd", seed)
        run_of(tmp_path / "a", "sgd", seed, "model.init=runs/a", model_init_id="a" * 16)
    assert names(tmp_path) == ["sgd, init=None", "sgd, init=runs/a"]
    notes = comparison_of([tmp_path]).notes
    assert not any("not one comparison" in note for note in notes)
    assert any("model.init drawn" in note for note in notes)


def test_runs_that_do_not_know_their_data_go_by_the_path(tmp_path: Path) -> None:
    for seed, place in enumerate(("a", "a", "b")):
        forget(run_of(tmp_path, "sgd", seed, f"data.train={place}"))
    assert names(tmp_path) == ["sgd, data.train=a", "sgd, data.train=b"]
    run_of(tmp_path, "sgd", 3, "data.train=a")  # it knows what is there
    comparison = comparison_of([tmp_path])
    assert [(row.n, row.marks) for row in comparison.rows] == [(1, "[1]"), (3, "[1–2]")]
    assert any("rwp-dist unknown" in note for note in comparison.notes)
    assert any("which data and code these runs had is not known" in n for n in comparison.notes)


def test_test_sets_are_tables_of_their_own_and_nothing_is_compared_across_them(
    tmp_path: Path,
) -> None:
    runs = tmp_path / "runs"
    for seed in (0, 1):
        run_of(runs, "sgd", seed)
        run_of(runs, "m-rwp", seed)
        run_of(runs, "rwp", seed, data_val_id="b" * 16)
    comparison = comparison_of([runs], baseline="sgd")
    one, other = comparison.parts
    assert [row.name for row in one.rows] == ["sgd", "m-rwp"]
    assert [row.name for row in other.rows] == ["rwp"]
    assert comparison.differences is not None
    assert [row.name for row in comparison.differences.rows] == ["m-rwp"]
    assert comparison.rows[-1].time_ratios == ()  # sgd was evaluated elsewhere
    text = compare([runs], tmp_path, baseline="sgd", html=True)
    assert "there are 2 test sets" in text
    assert "Not compared with sgd, because their test set is another: rwp." in text
    for file, head in (
        ("md", "\nTest set bbbbbb:\n\n| method |"),
        ("tex", "\\multicolumn{5}{l}{Test set bbbbbb} \\\\\nmethod &"),
        ("html", "Test accuracy and time, test set bbbbbb"),
    ):
        assert head in (tmp_path / f"compare.{file}").read_text()
    assert "\nTest set bbbbbb:\n" in text
    assert numbers(tmp_path)["rwp"]["test_set"] == "b" * 16
    what = [title for title, _ in panels(comparison)]
    assert len(what) == 4 and what[-1].endswith("test set bbbbbb")
    axes = Figure().subplots()
    draw_ends(axes, other)  # no baseline there: accuracies, not differences
    assert axes.get_xlabel() == "test top-1 (%)"


def test_names_tell_apart_what_is_in_one_table(tmp_path: Path) -> None:
    run_of(tmp_path, "sgd", 0)
    run_of(tmp_path, "sgd", 1, "batch.global=32", "optimizer.lr=0.3", data_val_id="b" * 16)
    run_of(tmp_path, "sgd", 2, "batch.global=32", "optimizer.lr=0.4", data_val_id="c" * 16)
    run_of(tmp_path, "sgd", 3, "batch.global=32", "optimizer.lr=0.5", data_val_id="c" * 16)
    known = id_of("data/digits/test")[:6]
    assert sorted(names(tmp_path)) == sorted(
        ["sgd, lr=0.4", "sgd, lr=0.5", "sgd, data.val=bbbbbb", f"sgd, data.val={known}"]
    )


def test_what_runs_of_a_comparison_differ_in_is_one_note(tmp_path: Path) -> None:
    for number, (label, ranks) in enumerate((("sgd", 1), ("sam", 8), ("rwp", 2))):
        given = (f"model.num_classes={10 + number}", f"data.window={5 + number}")
        run = run_of(tmp_path, label, 0, *given, data_train_classes=str(number) * 16)
        change(run, "world_size", ranks)
    notes = comparison_of([tmp_path]).notes
    [note] = [note for note in notes if "so this is not one comparison" in note]
    assert "model.num_classes (10 | 11 | 12)" in note and "data.window (" in note
    assert any("runs differ in class names of the training data" in note for note in notes)
    assert notes[0].startswith("Trained with 1 or 2 or 8 ranks on ")


def test_a_baseline_of_each_test_set_is_named_by_its_label(tmp_path: Path) -> None:
    for test_set in ("a", "b"):
        for label, top1 in (("sgd", 70.0), ("sam", 72.0)):
            run = make(tmp_path / test_set, label, 0, top1 + 10 * (test_set == "b"), 0.01)
            configure(run, f"method.name={label}", data_val_id=test_set * 16)
    differences = comparison_of([tmp_path], baseline="sgd").differences
    assert differences is not None
    assert [list(row.points) for row in differences.rows] == [[2.0], [2.0]]
    make(tmp_path / "c", "sgd", 0, 75.0, 0.01, method="sam")
    configure(RunDir(tmp_path / "c" / "sgd-0"), "method.name=sam", data_val_id="a" * 16)
    with pytest.raises(ConfigError, match="3 rows are called sgd"):
        comparison_of([tmp_path], baseline="sgd")


def test_runs_can_be_put_together_by_what_is_no_setting(tmp_path: Path) -> None:
    for seed, torch in enumerate(("2.15.0", "2.16.0")):
        run_of(tmp_path, "sgd", seed, torch=torch)
    assert names(tmp_path) == ["sgd"]
    assert names(tmp_path, "torch") == ["sgd, torch=2.15.0", "sgd, torch=2.16.0"]
    run_of(tmp_path, "sgd", 2, data_val_id="b" * 16)
    by_train = names(tmp_path, "data.train.id")
    assert len(by_train) == 2 and "data.val=bbbbbb" in by_train[1]  # never one row


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("commit", "beef00" + "0" * 30 + ", changed", "commit beef00, changed"),
        ("torch", "2.16.0", "torch 2.16.0"),
        ("deepspeed", "0.20.0", "deepspeed 0.20.0"),
        ("rwp-dist", "0.4.0", "rwp-dist 0.4.0"),
        ("code", "123456123456", "code 123456"),
        ("ranks", 4, "ranks 4"),
        ("torch", None, "torch unknown"),
    ],
)
def test_what_runs_were_trained_with_is_said_beside_rows_in_every_format(
    tmp_path: Path, key: str, value: Any, text: str
) -> None:
    runs = tmp_path / "runs"
    for seed in (0, 1):
        run_of(runs, "sgd", seed)
        software(run_of(runs, "m-rwp", seed), **({key: value} if seed else {}))
    table = compare([runs], tmp_path, baseline="sgd", html=True)
    assert "\nsgd [1] " in table and "\nm-rwp [1–2] " in table
    assert f"\n- Careful: runs differ in {key}, as the numbers" in table
    assert f"\n- [2] {text}." in table
    for file, name in (
        ("md", "| m-rwp \\[1–2] |"),
        ("tex", "m-rwp [1--2] &"),
        ("html", ">m-rwp [1–2]</th>"),
    ):
        written = (tmp_path / f"compare.{file}").read_text()
        assert name in written and text in written
    assert value in numbers(tmp_path)["m-rwp"]["identity"][key] or value is None


def test_what_changed_within_a_run_is_said_beside_its_row(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    change(run_of(runs, "sgd", 0), "changes", ["ranks: 1 before, 2 now (after step 40)"])
    run_of(runs, "m-rwp", 0)
    text = compare([runs], tmp_path)
    assert "- [1] changed between attempts: ranks: 1 before, 2 now (after step 40)." in text
    assert "\nm-rwp [2] " in text and "- [2] nothing changed between attempts." in text
    assert numbers(tmp_path)["sgd"]["changes"] == ["ranks: 1 before, 2 now (after step 40)"]


def test_runs_that_agree_have_no_marks_and_the_picture_none(tmp_path: Path) -> None:
    run_of(tmp_path, "sgd", 0)
    run_of(tmp_path, "m-rwp", 0)
    comparison = comparison_of([tmp_path])
    assert not comparison.marks and not any(row.marks for row in comparison.rows)
    assert not any("Careful" in note for note in comparison.notes)


def test_the_picture_has_the_marks_and_what_they_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    real = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **b: (figures.append(self), real(self, *a, **b))
    )
    run_of(tmp_path / "runs", "sgd", 0)
    for seed in range(10):
        software(run_of(tmp_path / "runs", "m-rwp", seed), torch=f"2.15.{seed}")
    compare([tmp_path / "runs"], tmp_path)
    [figure] = figures
    caption = figure.get_supxlabel()
    assert "[1] torch 2.15.0" in caption and caption.endswith("more, see compare.md.")
    ticks = [label.get_text() for axes in figure.axes for label in axes.get_yticklabels()]
    assert "m-rwp [1–10]" in ticks
    for text in (*figure.texts, *[t for area in figure.subfigs for t in area.texts]):
        assert text.get_window_extent().x1 <= figure.bbox.x1


def test_what_a_run_of_another_version_is_needs_no_config(tmp_path: Path) -> None:
    run_of(tmp_path / "runs", "sgd", 0)
    other = run_of(tmp_path / "runs", "sgd", 1)
    other.config.write_text("{method: {name: of-the-future, temperature: 3}}")
    assert names(tmp_path / "runs") == ["sgd"]
    compare([tmp_path / "runs"], tmp_path)
    assert json.loads((tmp_path / "compare.json").read_text())["rows"][0]["n"] == 2
