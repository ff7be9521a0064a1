"""Accuracy while training, over what it took."""

import json
from pathlib import Path

import pytest
from support.comparisons import make

from rwp_dist.compare.curves import AXES, curve
from rwp_dist.compare.notes import make_notes
from rwp_dist.compare.rows import Row, make_rows
from rwp_dist.compare.runs import collect


def row_of(folder: Path, records: dict[int, list[dict[str, float]]], **summary: float) -> Row:
    """One row whose runs, by seed, have these evaluations."""
    for seed, evaluations in records.items():
        run = make(folder, "sgd", seed, 90.0, 0.01, samples=800, **summary)
        lines = [json.dumps({"kind": "eval", **record}) for record in evaluations]
        run.metrics.write_text("\n".join(lines) + "\n")
    [row] = make_rows(collect([folder])[0])
    return row


def points(row: Row, x: str) -> list[tuple[float, float]]:
    return [tuple(point) for point in curve(row, AXES[x])]


def test_points_are_means_of_what_runs_recorded(tmp_path: Path) -> None:
    def record(step: int, top1: float, spent: float) -> dict[str, float]:
        more = {"device_seconds": spent, "wall_s": 3 * spent, "samples": 8 * step}
        return {"step": step, "top1": top1, **more}

    first = [record(25, 40.0, 2.0), record(60, 70.0, 3.0), record(100, 80.0, 5.0)]
    second = [record(25, 60.0, 4.0), record(100, 90.0, 9.0)]
    row = row_of(tmp_path, {0: first, 1: second})
    assert points(row, "device") == [(3.0, 50.0), (7.0, 85.0)]
    assert points(row, "wall") == [(9.0, 50.0), (21.0, 85.0)]
    assert points(row, "samples") == [(200.0, 50.0), (800.0, 85.0)]
    assert points(row, "updates") == [(25.0, 50.0), (100.0, 85.0)]
    assert "estimated" not in " ".join(make_notes([row], {}))


def test_what_an_older_run_did_not_record_is_its_share_of_the_whole(tmp_path: Path) -> None:
    old = [{"step": 25, "top1": 40.0}, {"step": 100, "top1": 80.0}]
    row = row_of(tmp_path, {0: old})  # 2 device seconds, on two devices
    assert [x for x, _ in points(row, "device")] == pytest.approx([0.5, 2.0])
    assert [x for x, _ in points(row, "wall")] == pytest.approx([0.25, 1.0])
    assert [x for x, _ in points(row, "samples")] == pytest.approx([200, 800])
    notes = " ".join(make_notes([row], {}, axis=AXES["wall"]))
    assert "Wall-clock time while training is estimated from the share of the updates" in notes
    assert "estimated" not in " ".join(make_notes([row], {}, axis=AXES["updates"]))


def test_a_row_without_evaluations_has_no_curve(tmp_path: Path) -> None:
    assert points(row_of(tmp_path, {0: []}), "device") == []
