"""A run that cannot be read is left out by name, never with a traceback, never without a word."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.comparisons import forget, make

from rwp_dist.compare import compare, comparison_of
from rwp_dist.record.directory import RunDir


def cut(run: RunDir) -> None:
    run.summary.write_bytes(run.summary.read_bytes()[:40])


def become_a_folder(run: RunDir) -> None:
    run.summary.unlink()
    run.summary.mkdir()


def lead_nowhere(run: RunDir) -> None:
    run.summary.unlink()
    run.summary.symlink_to("gone")


def be_a_list(run: RunDir) -> None:
    run.summary.write_text("[1]")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (cut, "its summary.json is no JSON, or not whole"),
        (become_a_folder, "its summary.json cannot be read: Is a directory"),
        (lead_nowhere, "no summary"),
        (be_a_list, "its summary.json is no JSON object"),
    ],
)
def test_a_summary_that_is_none(tmp_path: Path, spoil: Callable[[RunDir], None], why: str) -> None:
    make(tmp_path, "sgd", 0, 90.0, 0.1)
    spoil(run := make(tmp_path, "sgd", 1, 90.0, 0.1))
    assert comparison_of([tmp_path]).left_out == {run.path: why}


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("top1", float("nan"), "its top1 is not a number"),
        ("loss", float("inf"), "its loss is not a number"),
        ("top1", 250.0, "its top1 cannot be 250"),
        ("steps", -3, "its steps cannot be -3"),
        ("device_seconds", 0, "its device_seconds cannot be 0"),
        ("step_s", "0.1", "its step_s is not a number"),
        ("samples", True, "its samples is not a number"),
        ("world_size", 0, "its world_size cannot be 0"),
        ("steps", 10**400, "its steps is not a number"),
        ("label", ["a"], "its label is no text"),
        ("seed", [1], "its seed is neither a text nor a whole number"),
        ("method", None, "its summary has no method"),
    ],
)
def test_a_summary_with_what_no_run_can_have(
    tmp_path: Path, key: str, value: Any, why: str
) -> None:
    make(tmp_path, "sgd", 0, 90.0, 0.1)
    run = make(tmp_path, "sgd", 1, 90.0, 0.1)
    summary = json.loads(run.summary.read_text()) | {key: value}
    for written in (json.dumps(summary), json.dumps(summary).replace("Infinity", "1e999")):
        run.summary.write_text(written)
        assert comparison_of([tmp_path]).left_out == {run.path: why}


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "sgd", 0, 90.0, 0.1)
    theirs = make(tmp_path, "sgd", 1, 90.0, 0.1)
    real = Path.open

    def refuse(path: Path, *args: Any, **more: Any) -> Any:
        if path == theirs.metrics:
            raise PermissionError(13, os.strerror(13), str(path))
        return real(path, *args, **more)

    monkeypatch.setattr(Path, "open", refuse)  # tests may run as root, who may read all
    assert comparison_of([tmp_path]).left_out == {theirs.path: "Permission denied"}


@pytest.mark.parametrize(
    "junk", ["[]", '"x"', '{"git": 1, "packages": [1], "gpus": {}, "argv": [3, null]}', "{"]
)
def test_what_else_is_no_report_of_ours_is_not_taken_for_one(tmp_path: Path, junk: str) -> None:
    run = make(tmp_path / "runs", "sgd", 0, 90.0, 0.1)
    forget(run)
    run.write_measurement("odd", {"numbers": {"ece": 10**400, "nll": "x", "flatness.trace": [1]}})
    for name in ("environment", "status", "identity"):
        getattr(run, name).write_text(junk)
    compare([tmp_path / "runs"], tmp_path, html=True)


def test_foreign_and_torn_lines_do_not_move_a_curve(tmp_path: Path) -> None:
    run = make(tmp_path, "sgd", 0, 90.0, 0.1)
    known = comparison_of([tmp_path]).runs[0].evaluations
    odd = [
        {"step": "a", "top1": 1.0}, {"step": 3, "top1": None}, {"step": 4, "top1": float("nan")},
        {"step": float("inf"), "top1": 1.0}, {"step": -1, "top1": 1.0}, {"step": 5, "top1": "b"},
        {"step": [1], "top1": 1.0}, {"step": 6, "top1": 900.0}, {"top1": 1.0},
    ]  # fmt: skip
    lines = [json.dumps({"kind": "eval", **record}) for record in odd]
    with run.metrics.open("ab") as file:
        file.write("\n".join([*lines, '{"kind": "eval", "st']).encode() + b"\xff\xfe\n\0")
    comparison = comparison_of([tmp_path])
    assert comparison.runs[0].evaluations == known
    assert not any("not all there" in note for note in comparison.notes)


def test_a_curve_that_was_cut_is_said_to_be(tmp_path: Path) -> None:
    run = make(tmp_path, "sgd", 0, 90.0, 0.1)
    run.metrics.write_bytes(run.metrics.read_bytes()[:-5])
    notes = comparison_of([tmp_path]).notes
    assert any(f"the evaluations of {run.path} are not all there" in note for note in notes)
