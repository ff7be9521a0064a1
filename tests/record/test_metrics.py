"""metrics.jsonl: torn lines, and what is cut at a resume."""

import json
from pathlib import Path

import pytest

from rwp_dist.record.directory import RunDir


def lines(*steps: int) -> str:
    return "".join(json.dumps({"kind": "train", "step": s}) + "\n" for s in steps)


def test_torn_last_line_is_left_out(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.metrics.write_bytes(lines(1, 2).encode() + b'{"kind": "eval", "ste\xc3')
    assert [r["step"] for r in run.read_metrics()] == [1, 2]
    assert run.read_metrics("eval") == []


@pytest.mark.parametrize(
    ("last_step", "kept"), [(20, [10, 20]), (5, []), (0, []), (99, [10, 20, 30])]
)
def test_cut_drops_what_comes_after_the_checkpoint(
    tmp_path: Path, last_step: int, kept: list[int]
) -> None:
    run = RunDir(tmp_path)
    run.metrics.write_text(lines(10, 20, 30) + '{"torn')
    assert run.cut_metrics(last_step) == 4 - len(kept)
    assert run.metrics.read_text() == lines(*kept)


def test_a_start_from_the_beginning_keeps_nothing(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.metrics.write_text(lines(0, 10))
    assert run.cut_metrics(0) == 2
    assert run.metrics.read_text() == ""


def test_cut_of_a_whole_file_does_not_touch_it(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert run.cut_metrics(3) == 0
    run.metrics.write_text(lines(1, 2))
    before = run.metrics.stat().st_ino
    assert run.cut_metrics(3) == 0
    assert run.metrics.stat().st_ino == before
