import json
import re
import statistics
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from rwp_dist.base.errors import RwpError
from rwp_dist.compare import compare
from rwp_dist.compare.experiments import related
from rwp_dist.compare.plot import _spread, headline
from rwp_dist.compare.runs import collect
from rwp_dist.compare.table import build
from rwp_dist.config.load import dump_settings, load_settings
from rwp_dist.record.directory import RunDir

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
    assert re.split(r" {2,}", lines[1].strip()) == [
        "method", "per step", "updates", "samples", "s", "× SGD", "top-1 %", "n", "top-1 %",
    ]  # fmt: skip
    lines = lines[1:]
    labels = [line[:10].strip() for line in lines[2:8]]
    assert labels == ["sgd", "sgd 2x", "sam", "m-rwp", "a sam", "m-rwp wide"]
    assert [cell.strip() for cell in re.split(r" {2,}", lines[5])] == [
        "m-rwp", "1 clean + 1 perturbed", "100", "12,800", "3.5", "×1.1 (1.1–1.2)",
        "94.0 ± 1.4", "2", "61.0 ± 0.0",
    ]  # fmt: skip
    assert re.search(r"sam +2 .* — +94\.5 +1", lines[4])
    markdown = (tmp_path / "out" / "compare.md").read_text()
    assert (
        "| m-rwp | 1 clean + 1 perturbed | 100 | 12,800 | 3.5 | ×1.1 (1.1–1.2) | 94.0 ± 1.4 | 2 |"
        in markdown
    )
    assert (tmp_path / "out" / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_notes_say_what_columns_mean(folder: Path, tmp_path: Path) -> None:
    text = compare([folder], tmp_path)
    assert max(map(len, text.split("\n\n")[0].splitlines())) <= 100
    assert "2 ranks on cpu, model small_cnn" in text
    assert "m-rwp or m-arwp consumes two mini-batches" in text
    assert "No step-time ratio for sam" in text
    assert "at the weights the method trains with: perturbed for rwp, arwp, sam" in text
    assert "For networks this small" in text
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


def configure(run: RunDir, *overrides: str) -> None:
    settings = load_settings(None, [f"run.name={run.path.name}", *overrides])
    run.write_config(dump_settings(settings))


def test_one_label_with_different_settings_is_several_rows(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for seed, top1 in ((0, 95.0), (1, 96.0)):
        own = [f"run.seed={seed}", "method.sigma=0.1", "batch.global=128"]
        aside = ["data.workers=0", "tracking.log_every=7", "evaluation.every_epochs=3"]
        aside += ["checkpoint.keep_last=9", "deepspeed.zero_stage=2", "run.threads=2"]
        configure(make(runs, "m-rwp", seed, top1, 0.01), *own, *(aside if seed else []))
        configure(make(runs, "sgd", seed, 74.0, 0.01), "method.name=sgd", f"run.seed={seed}")
    configure(make(runs / "other", "m-rwp", 0, 9.2, 0.01, session=""), "method.sigma=0.8")
    text = compare([runs], tmp_path / "out")
    rows = numbers(tmp_path / "out")
    assert list(rows) == ["sgd", "m-rwp, sigma 0.1", "m-rwp, sigma 0.8"]
    assert rows["m-rwp, sigma 0.1"]["top1"] == [95.0, 96.0]
    assert rows["m-rwp, sigma 0.8"]["top1"] == [9.2]
    assert rows["m-rwp, sigma 0.8"]["run_label"] == "m-rwp"
    assert rows["m-rwp, sigma 0.8"]["differs"] == {"method.sigma": "0.8", "batch.global": "64"}
    assert (
        "Runs of m-rwp stand in 2 rows, because their settings differ: "
        "method.sigma (0.1 | 0.8), batch.global (128 | 64)."
    ) in text
    main, _ = headline(build(*collect([runs])))
    assert main.startswith("m-rwp, sigma 0.1: 95.5 ± 0.7 % test top-1 vs sgd: 74.0")


def test_as_many_settings_are_named_as_tell_rows_apart(tmp_path: Path) -> None:
    for i, overrides in enumerate(
        (["optimizer.lr=0.1"], ["optimizer.lr=0.2"], ["precision=bf16"], ["batch.global=32"])
    ):
        configure(make(tmp_path, "m-rwp", i, 90.0, 0.01), *overrides)
    make(tmp_path, "m-rwp", 9, 90.0, 0.01)
    table = build(*collect([tmp_path]))
    assert [row.label for row in table.rows] == [
        "m-rwp, batch 32, optimizer.lr 0.1, precision fp32",
        "m-rwp, batch 64, optimizer.lr 0.1, precision bf16",
        "m-rwp, batch 64, optimizer.lr 0.1, precision fp32",
        "m-rwp, batch 64, optimizer.lr 0.2, precision fp32",
        "m-rwp, settings unknown",
    ]
    assert any("1 of them without a readable config.yaml" in note for note in table.notes)
    compare([tmp_path], tmp_path / "out")


def test_a_setting_that_an_older_run_does_not_know_has_its_default(tmp_path: Path) -> None:
    configure(make(tmp_path, "m-rwp", 0, 90.0, 0.01))
    make(tmp_path, "m-rwp", 1, 90.0, 0.01).write_config("method: {name: m-rwp}")
    runs, _ = collect([tmp_path])
    assert related(runs[0]) == related(runs[1])
    assert [row.n for row in build(runs).rows] == [2]


def test_runs_trained_alone_are_no_session(tmp_path: Path) -> None:
    for label in ("sgd", "m-rwp"):
        make(tmp_path, label, 0, 90.0, 0.01, session="")
    assert [row.step_time for row in build(*collect([tmp_path])).rows] == ["—", "—"]


def test_step_times_of_a_large_network_are_taken_as_they_are(tmp_path: Path) -> None:
    make(tmp_path, "sgd", 0, 90.0, 0.01, num_parameters=25_000_000)
    table = build(*collect([tmp_path]))
    assert not any("For networks this small" in note for note in table.notes)
    assert table.rows[0].step_time == "×1.0"


@pytest.mark.parametrize(
    "wanted",
    [[100.0], [99.9, 99.8, 99.7, 99.6], [50.0, 50.1, 100.4, 100.5], [40.0], [40.0, 40.1, 99.0]],
)
def test_labels_stay_within_the_axes_and_apart(wanted: list[float]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 6))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.1, 0.1, 0.4, 0.7))
    axes.set_ylim(40, 100.5)
    line = 60.5 * (11.5 / 72) / (6 * 0.7)
    heights = _spread(axes, wanted)
    assert min(heights) - line / 2 >= 40
    assert max(heights) + line / 2 <= 100.5
    ordered = [h for _, h in sorted(zip(wanted, heights, strict=True))]
    assert all(b - a >= line for a, b in pairwise(ordered))


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
        "m-rwp: 94.0 ± 1.4 % test top-1 vs sgd: 74.5 ± 0.7 % at equal updates, ×2.0 samples"
    )
    assert detail.startswith("Highest mean: sam: 94.5 % (passes per step: 2); 1 to 2 runs of each")
    make(folder, "sam", 0, 90.0, 0.019)
    make(folder, "m-rwp", 1, 70.0, 0.024, steps=300)
    main, detail = headline(build(*collect([folder])))
    assert main.startswith("m-rwp: 81.5 ± 16.3 % test top-1 vs sgd: 74.5 ± 0.7 % at ×2.0 updates")
    assert detail.startswith("Highest mean: sam: 90.0 % (passes per step: 2)")


def test_headline_without_a_rival(tmp_path: Path) -> None:
    make(tmp_path, "sgd", 0, 70.0, 0.01)
    main, _ = headline(build(*collect([tmp_path])))
    assert main == "sgd: 70.0 % test top-1, the only method here"


def test_a_run_without_evaluations_is_drawn(tmp_path: Path) -> None:
    make(tmp_path / "runs", "sgd", 0, 70.0, 0.01).metrics.unlink()
    compare([tmp_path / "runs"], tmp_path / "out")
    assert (tmp_path / "out" / "compare.png").stat().st_size > 10_000
