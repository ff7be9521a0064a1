import statistics
from pathlib import Path
from typing import Any

import pytest
from support.comparisons import configure, forget, id_of, make, numbers, split

from rwp_dist.base.errors import ConfigError, RwpError
from rwp_dist.compare import compare
from rwp_dist.compare.notes import make_notes
from rwp_dist.compare.plot import STYLES, make_styles
from rwp_dist.compare.rows import Row, make_rows
from rwp_dist.compare.runs import collect
from rwp_dist.record.directory import RunDir


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


def test_numbers_are_those_computed_by_hand(folder: Path, tmp_path: Path) -> None:
    compare([folder], tmp_path / "out")
    rows = numbers(tmp_path / "out")
    ours = rows["m-rwp"]
    assert ours["n"] == 2
    assert ours["top1_mean"] == pytest.approx(94.0)
    assert ours["top1_std"] == pytest.approx(2**0.5)  # sample: divided by n - 1
    # Of two: 12.706 times the standard error, which is 1 here.
    assert ours["top1_interval"] == pytest.approx([94 - 12.706, 94 + 12.706], abs=1e-3)
    # Seed by seed: 11/10 and 24/20; the ratio of medians would be 17.5/15.
    assert ours["time_vs_sgd"] == pytest.approx((1.1 + 1.2) / 2)
    assert ours["device_seconds"] == pytest.approx(statistics.median([2.2, 4.8]))
    assert rows["sgd 2x"]["time_vs_sgd"] == pytest.approx(2.0)
    assert rows["sgd 2x"]["top1_std"] is None
    assert rows["sam"]["time_vs_sgd"] is None  # no sgd in its session


def test_rows_are_ordered_and_text_is_aligned(folder: Path, tmp_path: Path) -> None:
    make(folder, "m-rwp wide", 0, 90.0, 0.01)
    make(folder, "a sam", 0, 90.0, 0.01, method="sam")
    lines = compare([folder], tmp_path / "out").splitlines()
    assert split(lines[0]) == ["test", "95 %", "time"]
    assert split(lines[1]) == ["method", "top-1 %", "interval", "× SGD", "n"]
    labels = [line[:10].strip() for line in lines[3:9]]
    assert labels == ["sgd", "sgd 2x", "sam", "a sam", "m-rwp", "m-rwp wide"]
    cells = ["m-rwp", "94.0 ± 1.4", "81.3–106.7", "1.15 (1.10–1.20)", "2"]
    assert split(lines[7]) == cells
    assert split(lines[5]) == ["sam", "94.5", "—", "—", "1"]
    markdown = (tmp_path / "out" / "compare.md").read_text()
    assert f"| {' | '.join(cells)} |" in markdown
    assert (tmp_path / "out" / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_notes_say_what_columns_mean(folder: Path, tmp_path: Path) -> None:
    text = compare([folder], tmp_path)
    assert max(map(len, text.split("\n\n")[0].splitlines())) <= 80
    assert "2 ranks on cpu, model small_cnn" in text
    assert "m-rwp or m-arwp passes half of its samples at clean weights" in text
    assert "No time × SGD for sam" in text
    assert "For networks this small" in text
    assert "Careful" not in text and "Train top-1" not in text
    text = compare([folder], tmp_path, columns=["train_top1"])
    assert "at the weights the method trains with: clean in sgd, m-rwp, m-arwp, perturbed" in text


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


@pytest.mark.parametrize("other", [{"world_size": 4}, {"device": "cuda"}])
def test_times_on_other_ranks_or_devices_are_not_compared(
    folder: Path, tmp_path: Path, other: dict[str, Any]
) -> None:
    make(folder, "m-rwp", 0, 93.0, 0.011, **other)
    compare([folder], tmp_path)
    assert numbers(tmp_path)["m-rwp"]["time_vs_sgd_pairs"] == pytest.approx([1.2])


def test_one_slow_run_does_not_move_the_time(folder: Path, tmp_path: Path) -> None:
    for label, step_s in (("sgd", 0.01), ("m-rwp", 0.09)):
        make(folder, label, 2, 90.0, step_s)
    text = compare([folder], tmp_path)
    assert numbers(tmp_path)["m-rwp"]["time_vs_sgd"] == pytest.approx(1.2)
    assert "1.20 (1.10–9.00)" in text


@pytest.mark.parametrize("unfinished", [False, True])
def test_nothing_to_compare(tmp_path: Path, unfinished: bool) -> None:
    if unfinished:
        RunDir(tmp_path / "a").write_status("running", 1, 2)
    with pytest.raises(RwpError, match=r"no finished run .*name run directories") as error:
        compare([tmp_path], tmp_path / "out")
    assert ("running at step 1 of 2" in str(error.value)) == unfinished
    assert not (tmp_path / "out").exists()


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(RwpError, match="nowhere: there is no such folder"):
        compare([tmp_path / "nowhere"], tmp_path)


def test_a_run_without_evaluations_is_drawn(tmp_path: Path) -> None:
    make(tmp_path / "runs", "sgd", 0, 70.0, 0.01).metrics.unlink()
    compare([tmp_path / "runs"], tmp_path / "out")
    assert (tmp_path / "out" / "compare.png").stat().st_size > 10_000


def rows_of(folder: Path, *by: str) -> list[Row]:
    return make_rows(collect([folder])[0], by)


def notes_of(folder: Path, *by: str) -> str:
    return "\n".join(make_notes(rows_of(folder, *by), {}, by))


def test_one_label_with_different_settings_is_several_rows(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for seed, top1 in ((0, 95.0), (1, 96.0)):
        own = [f"run.seed={seed}", "method.sigma=0.1", "batch.global=128"]
        aside = ["data.workers=0", "tracking.log_every=7", "evaluation.every_epochs=3"]
        aside += ["checkpoint.keep_last=9", "engine.name=deepspeed", "run.threads=2"]
        configure(make(runs, "m-rwp", seed, top1, 0.01), *own, *(aside if seed else []))
        configure(make(runs, "sgd", seed, 74.0, 0.01), "method.name=sgd", f"run.seed={seed}")
    configure(make(runs / "other", "m-rwp", 0, 9.2, 0.01, session=""), "method.sigma=0.8")
    compare([runs], tmp_path / "out")
    rows = numbers(tmp_path / "out")
    assert list(rows) == ["sgd", "m-rwp, sigma=0.1, global=128", "m-rwp, sigma=0.8, global=64"]
    assert rows["m-rwp, sigma=0.1, global=128"]["top1"] == [95.0, 96.0]
    assert rows["m-rwp, sigma=0.8, global=64"]["top1"] == [9.2]
    assert rows["m-rwp, sigma=0.8, global=64"]["run_label"] == "m-rwp"
    differs = {"method.sigma": 0.8, "batch.global": 64}
    assert rows["m-rwp, sigma=0.8, global=64"]["differs"] == differs
    assert "Careful: runs of" not in notes_of(runs)

    compare([runs], tmp_path / "out", by=["method.sigma", "engine.name"])
    assert list(numbers(tmp_path / "out")) == [
        "sgd",
        "m-rwp, sigma=0.1, name=auto",
        "m-rwp, sigma=0.1, name=deepspeed",
        "m-rwp, sigma=0.8, name=auto",
    ]


@pytest.mark.parametrize(
    "other", ["deepspeed.zero_stage=3", "batch.per_rank=16", "schedule.epochs=7"]
)
def test_another_split_or_setting_is_another_row(tmp_path: Path, other: str) -> None:
    configure(make(tmp_path, "m-rwp", 0, 95.0, 0.01))
    configure(make(tmp_path, "m-rwp", 1, 96.0, 0.01), "run.seed=1", other)
    one, another = (row.name for row in rows_of(tmp_path))
    assert other.partition(".")[2] in f"{one} {another}"


def test_runs_that_the_user_puts_together_are_said_to_differ(tmp_path: Path) -> None:
    for seed, sigma in enumerate((0.5, 0.1, 0.02)):
        configure(make(tmp_path, "m-rwp", seed, 90.0, 0.01), f"method.sigma={sigma}")
    assert [row.name for row in rows_of(tmp_path)] == [
        "m-rwp, sigma=0.02", "m-rwp, sigma=0.1", "m-rwp, sigma=0.5",
    ]  # fmt: skip
    assert [row.name for row in rows_of(tmp_path, "method.lambda")] == ["m-rwp"]
    note = "Careful: runs of m-rwp differ in method.sigma (0.5 | 0.1 | 0.02)."
    assert note in notes_of(tmp_path, "method.lambda")
    with pytest.raises(ConfigError, match=r"method\.sigam: unknown setting"):
        compare([tmp_path], tmp_path / "out", by=["method.sigam"])


def test_settings_that_are_not_known_are_not_taken_for_equal(tmp_path: Path) -> None:
    for seed, lr in enumerate((0.1, 0.2)):
        configure(make(tmp_path, "m-rwp", seed, 90.0, 0.01), f"optimizer.lr={lr}")
    lost = make(tmp_path, "m-rwp", 2, 90.0, 0.01)
    lost.config.unlink()
    forget(lost)
    names = {"m-rwp, lr=0.1", "m-rwp, lr=0.2", "m-rwp"}  # the last in a table of its own
    assert {row.name for row in rows_of(tmp_path)} == names
    assert "m-rwp has runs without a readable config.yaml" in notes_of(tmp_path)


def test_a_setting_that_an_older_run_does_not_know_has_its_default(tmp_path: Path) -> None:
    configure(make(tmp_path, "m-rwp", 0, 90.0, 0.01))
    old = make(tmp_path, "m-rwp", 1, 90.0, 0.01)
    old.write_config("{method: {name: m-rwp}, optimizer: {no_decay: null}}")
    forget(old)
    assert [len(row.runs) for row in rows_of(tmp_path)] == [2]


def test_a_run_of_version_0_1_can_be_compared() -> None:
    [run], left_out = collect([Path(__file__).parents[1] / "fixtures" / "written_by_0_1" / "run"])
    assert run.identity["method.name"] == "m-arwp" and run.evaluations and not left_out
    assert not run.has_identity


def test_doubts_are_said(folder: Path) -> None:
    make(folder / "more", "sgd", 1, 75.0, 0.02)
    make(folder / "more", "m-rwp", 7, 75.0, 0.02, model="resnet18", num_parameters=9, steps=90)
    text = notes_of(folder)
    differing = "model (small_cnn | resnet18), num_parameters (5 | 9)"
    assert f"the runs differ in {differing}, so this is not one" in text
    assert "runs of m-rwp differ in steps (100 | 90)" in text
    assert "sgd has several runs of seed 1" in text


def test_skipped_updates_of_one_row_are_said(folder: Path) -> None:
    make(folder, "m-rwp", 2, 90.0, 0.01, skipped_steps=3)
    assert "Updates skipped because of non-finite gradients: m-rwp 3." in notes_of(folder)


def test_other_data_or_classes_are_no_comparison(tmp_path: Path) -> None:
    configure(make(tmp_path, "sgd", 0, 90.0, 0.01), "method.name=sgd")
    other = ["data.train=shards/other", "model.num_classes=100", "optimizer.lr=0.3"]
    configure(make(tmp_path, "m-rwp", 0, 90.0, 0.01), *other)
    text = notes_of(tmp_path)
    assert f"| {id_of('shards/other')[:6]}), so this is not one comparison" in text
    assert "the runs differ in model.num_classes (" in text
    assert "optimizer.lr" not in text  # methods may need their own
    assert "data.train" not in notes_of(tmp_path, "data.train")


def test_runs_trained_alone_are_no_session(tmp_path: Path) -> None:
    for label in ("sgd", "m-rwp"):
        make(tmp_path, label, 0, 90.0, 0.01, session="")
    assert [row.time_ratios for row in rows_of(tmp_path)] == [(), ()]


def test_times_of_a_large_network_are_taken_as_they_are(tmp_path: Path) -> None:
    make(tmp_path, "sgd", 0, 90.0, 0.01, num_parameters=25_000_000)
    assert "For networks this small" not in notes_of(tmp_path)
    assert rows_of(tmp_path)[0].time_ratios == (1.0,)


def test_each_row_has_its_own_style_and_a_method_always_the_same(folder: Path) -> None:
    make(folder, "wide", 0, 90.0, 0.01, method="rwp")
    configure(make(folder, "m-rwp", 2, 90.0, 0.01), "method.sigma=0.6")
    rows = rows_of(folder)
    styles = make_styles(rows)
    assert len({style.colour for style in styles}) == len({style.marker for style in styles}) == 6
    by_name = {row.name: style for row, style in zip(rows, styles, strict=True)}
    for label in ("sgd", "sgd 2x", "sam"):
        assert by_name[label] == STYLES[label]
    assert STYLES["m-rwp"] in by_name.values()
