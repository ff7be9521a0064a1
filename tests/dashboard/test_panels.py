"""What the dashboard shows is what runs log."""

from support.ranks import run_ranks
from support.small import small_parts, small_settings, split_over

from rwp_dist.dashboard.panels import COLUMNS_OF_RUNS, SECTIONS
from rwp_dist.run.evaluate import evaluate_parts
from rwp_dist.run.progress import Progress
from rwp_dist.tracking.columns import COLUMNS, STEP

LOGGED = {column.name for columns in COLUMNS.values() for column in columns}
PANELS = [panel for section in SECTIONS for panel in section.panels]
LEFT_OUT = {
    "train/epoch": "an axis",
    "train/samples": "an axis",
    "eval/epoch": "an axis",
    "eval/samples": "an axis",
    "eval/train_s": "eval/device_seconds over the number of ranks",
    "eval/num_samples": "the same for all",
}


def test_lines_are_of_metrics_that_runs_log() -> None:
    lines = [panel for panel in PANELS if panel.kind == "lines"]
    named = {name for panel in lines for name in panel.y}
    assert named - LOGGED == set()
    assert {panel.x for panel in lines} - LOGGED == {STEP}


def test_every_metric_that_runs_log_is_on_a_panel_or_left_out() -> None:
    named = {name for panel in PANELS for name in (*panel.y, panel.x)}
    assert LOGGED - named == LEFT_OUT.keys()


def summary_keys() -> set[str]:
    with small_parts(small_settings("method.name=m-rwp", split_over(1, 2))) as parts:
        result, _ = evaluate_parts(parts)
        return set(Progress(parts).summary(result, 0, ""))


def test_bars_are_of_numbers_of_the_summary() -> None:
    [known] = run_ranks(summary_keys, 1)
    bars = {key for panel in PANELS if panel.kind == "bars" for key in panel.y}
    assert {*bars, *COLUMNS_OF_RUNS} - known == set()


def test_titles_are_unique_because_ids_are_made_of_them() -> None:
    assert len({section.title for section in SECTIONS}) == len(SECTIONS)
    for section in SECTIONS:
        assert len({panel.title for panel in section.panels}) == len(section.panels)


def test_meanings_are_sentences() -> None:
    assert [panel.title for panel in PANELS if not panel.meaning.endswith(".")] == []
