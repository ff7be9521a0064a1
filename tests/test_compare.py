import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest

from rwp_dist.compare import compare
from rwp_dist.compare.plot import headline
from rwp_dist.compare.runs import collect
from rwp_dist.compare.table import build
from rwp_dist.errors import RwpError
from rwp_dist.rundir import RunDir

PASSES = {"sgd": 1, "sam": 2, "m-rwp": "1 clean + 1 perturbed"}


def make(folder: Path, label: str, seed: int, top1: float, step_s: float, **more: Any) -> RunDir:
    run = RunDir(folder / f"{label.replace(' ', '-')}-{seed}")
    method = label.split()[0]
    summary = {
        "state": "finished", "label": label, "method": method, "seed": seed, "session": "one",
        "model": "small_cnn", "world_size": 2, "device": "cpu", "steps": 100,
        "samples": 12800 if method == "m-rwp" else 6400, "passes_per_step": PASSES.get(method, 1),
        "device_seconds": 200 * step_s, "step_s": step_s, "top1": top1, "train_top1": 61.0,
        "skipped_steps": 0, "num_parameters": 5, "method_settings": {},
    }  # fmt: skip
    run.write_summary(summary | more)
    run.write_status("finished", 100, 100)
    records = [{"kind": "eval", "step": s, "top1": top1 - 50 / s} for s in (25, 50, 100)]
    run.metrics.write_text("".join(json.dumps(r) + "\n" for r in records))
    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    runs = tmp_path / "runs"
    make(runs, "m-rwp", 0, 93.0, 0.011)
    make(runs, "m-rwp", 1, 95.0, 0.024)
    make(runs, "sgd", 0, 74.0, 0.010)
    make(runs, "sgd", 1, 75.0, 0.020)
    make(runs, "sgd 2x", 0, 73.0, 0.010, steps=200, samples=12800)
    make(runs, "sam", 0, 94.5, 0.019, session="another")
    return runs


def numbers(out: Path) -> dict[str, Any]:
    return {row["label"]: row for row in json.loads((out / "compare.json").read_text())["rows"]}


def test_numbers_are_those_computed_by_hand(folder: Path, tmp_path: Path) -> None:
    compare([folder], tmp_path / "out")
    rows = numbers(tmp_path / "out")
    ours = rows["m-rwp"]
    assert ours["n"] == 2
    assert ours["top1_mean"] == pytest.approx(94.0)
    assert ours["top1_std"] == pytest.approx(2**0.5)  # sample: divided by n - 1
    # Seed by seed: 11/10 and 24/20; the ratio of medians would be 17.5/15.
    assert ours["step_time_vs_sgd"] == pytest.approx((1.1 + 1.2) / 2)
    assert ours["device_seconds"] == pytest.approx(statistics.median([2.2, 4.8]))
    assert (ours["updates"], ours["samples"]) == (100, 12800)
    assert ours["train_top1_mean"] == pytest.approx(61.0)
    assert rows["sgd 2x"]["updates"] == 200
    assert rows["sgd 2x"]["top1_std"] is None
    assert rows["sam"]["step_time_vs_sgd"] is None  # no sgd in its session


def test_rows_are_ordered_and_text_is_aligned(folder: Path, tmp_path: Path) -> None:
    make(folder, "m-rwp wide", 0, 90.0, 0.01)
    make(folder, "a sam", 0, 90.0, 0.01, method="sam")
    text = compare([folder], tmp_path / "out")
    lines = text.splitlines()
    labels = [line[:10].strip() for line in lines[2:8]]
    assert labels == ["sgd", "sgd 2x", "sam", "m-rwp", "a sam", "m-rwp wide"]
    assert [cell.strip() for cell in re.split(r" {2,}", lines[5])] == [
        "m-rwp", "1 clean + 1 perturbed", "100", "12,800", "3.5", "×1.15", "94.0 ± 1.4", "2",
        "61.0 ± 0.0",
    ]  # fmt: skip
    assert re.search(r"sam +2 .* — +94\.5 +1", lines[4])
    markdown = (tmp_path / "out" / "compare.md").read_text()
    assert (
        "| m-rwp | 1 clean + 1 perturbed | 100 | 12,800 | 3.5 | ×1.15 | 94.0 ± 1.4 | 2 |"
        in markdown
    )
    assert (tmp_path / "out" / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_notes_say_what_columns_mean(folder: Path, tmp_path: Path) -> None:
    text = compare([folder], tmp_path)
    assert "2 ranks on cpu, model small_cnn" in text
    assert "m-rwp or m-arwp consumes two mini-batches" in text
    assert "No step-time ratio for sam" in text
    assert "Careful" not in text


def test_unfinished_runs_are_named(folder: Path, tmp_path: Path) -> None:
    RunDir(folder / "going").write_status("running", 1200, 5000)
    RunDir(folder / "bare").write_config("{}")
    make(folder, "sgd", 2, 70.0, 0.01, state="failed")
    again = make(folder, "sgd", 3, 70.0, 0.01)
    again.write_status("interrupted", 150, 200)  # longer now, and its summary is of before
    make(folder, "sgd", 4, 70.0, 0.01, samples=None)
    text = compare([folder], tmp_path / "out")
    assert numbers(tmp_path / "out")["sgd"]["seeds"] == [0, 1]
    [line] = [line for line in text.splitlines() if line.startswith("- Left out")]
    assert "going (running at step 1,200 of 5,000)" in line
    assert "bare (no summary)" in line
    assert "sgd-2 (failed at step 100 of 100)" in line
    assert "sgd-3 (interrupted at step 150 of 200)" in line
    assert "sgd-4 (its summary has no samples)" in line


def test_a_run_named_twice_counts_once(folder: Path) -> None:
    runs, _ = collect([folder, folder / "sgd-0"])
    assert len(runs) == 6


def test_doubts_are_said(folder: Path, tmp_path: Path) -> None:
    make(folder / "more", "sgd", 1, 75.0, 0.02)
    make(folder / "more", "m-rwp", 7, 75.0, 0.02, model="resnet18", method_settings={"sigma": 1})
    text = compare([folder], tmp_path)
    assert "the runs differ in model" in text
    assert "runs of m-rwp differ in method settings" in text
    assert "sgd has several runs of seed 1" in text


def test_step_times_on_other_ranks_are_not_compared(folder: Path, tmp_path: Path) -> None:
    make(folder, "m-rwp", 0, 93.0, 0.011, world_size=4)
    compare([folder], tmp_path)
    assert numbers(tmp_path)["m-rwp"]["step_time_vs_sgd_pairs"] == pytest.approx([1.2])


@pytest.mark.parametrize("unfinished", [False, True])
def test_nothing_to_compare(tmp_path: Path, unfinished: bool) -> None:
    if unfinished:
        RunDir(tmp_path / "a").write_status("running", 1, 2)
    with pytest.raises(RwpError, match=r"No finished run .*name run directories") as error:
        compare([tmp_path], tmp_path / "out")
    assert ("running at step 1 of 2" in str(error.value)) == unfinished
    assert not (tmp_path / "out").exists()


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(RwpError, match="nowhere: there is no such folder"):
        compare([tmp_path / "nowhere"], tmp_path)


def test_headline_is_made_from_the_data(folder: Path) -> None:
    main, detail = headline(build(*collect([folder])))
    assert main == (
        "m-rwp: 94.0 ± 1.4 % test top-1 vs sgd: 74.5 ± 0.7 % "
        "at equal updates, ×2.0 samples, ×1.15 step time"
    )
    assert detail.startswith("Highest mean: sam: 94.5 %; 1 to 2 runs of each")
    make(folder, "sam", 0, 90.0, 0.019)
    make(folder, "m-rwp", 1, 70.0, 0.024, steps=300)
    main, detail = headline(build(*collect([folder])))
    assert main.startswith("m-rwp: 81.5 ± 16.3 % test top-1 vs sgd: 74.5 ± 0.7 % at ×2.0 updates")
    assert detail.startswith("Highest mean: sam: 90.0 % at ×1.90 sgd's step time")


def test_headline_without_a_rival(tmp_path: Path) -> None:
    make(tmp_path, "sgd", 0, 70.0, 0.01)
    main, _ = headline(build(*collect([tmp_path])))
    assert main == "sgd: 70.0 % test top-1, the only method here"


def test_a_run_without_evaluations_is_drawn(tmp_path: Path) -> None:
    make(tmp_path / "runs", "sgd", 0, 70.0, 0.01).metrics.unlink()
    compare([tmp_path / "runs"], tmp_path / "out")
    assert (tmp_path / "out" / "compare.png").stat().st_size > 10_000
