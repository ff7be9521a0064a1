"""The report: the table of ``compare``, replaced at a later call, and nothing else."""

import json
from pathlib import Path

import pytest
from support.comparisons import make
from wandb_workspaces.reports.v2 import internal

from rwp_dist.base.errors import RwpError
from rwp_dist.compare import comparison_of
from rwp_dist.dashboard.panels import IN_THE_REPORT
from rwp_dist.dashboard.report import SIGNED, merged_report, report_spec


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for seed in (0, 1):
        make(tmp_path, "sgd", seed, 85.0 + seed, 0.1)
        make(tmp_path, "m-rwp", seed, 87.0 + seed, 0.1)
    return tmp_path


def content(spec: dict) -> str:
    [text] = [b["content"] for b in spec["blocks"] if b["type"] == "markdown-block"]
    return text


def test_it_has_the_table_of_compare_and_panels_and_is_the_same_twice(runs: Path) -> None:
    spec = report_spec([runs])
    comparison = comparison_of([runs])
    for line in (*comparison.markdown_tables(), *comparison.markdown_notes()):
        assert line in content(spec)
    [grid] = [b["metadata"] for b in spec["blocks"] if b["type"] == "panel-grid"]
    panels = grid["panelBankSectionConfig"]["panels"]
    assert [p["config"]["chartTitle"] for p in panels] == [p.title for p in IN_THE_REPORT]
    assert grid["runSets"][0]["grouping"] == [{"section": "run", "name": "group"}]
    assert json.dumps(report_spec([runs])) == json.dumps(spec)


def test_the_library_takes_it_and_gives_it_back(runs: Path) -> None:
    spec = report_spec([runs])
    parsed = internal.Spec.model_validate(spec)
    assert json.loads(parsed.model_dump_json(by_alias=True, exclude_none=True)) == spec


def test_a_later_table_replaces_the_earlier_one_and_keeps_all_else(runs: Path) -> None:
    saved = report_spec([runs])
    saved["blocks"].insert(0, {"type": "paragraph", "children": [{"text": "Mine."}]})
    saved["blocks"][-2]["metadata"]["name"] = "changed"
    assert merged_report(saved, report_spec([runs])) == (saved, [])
    make(runs, "rwp", 0, 86.0, 0.1)
    ours = report_spec([runs])
    spec, lost = merged_report(saved, ours)
    assert lost == [] and content(spec) == content(ours) != content(saved)
    assert [b for b in spec["blocks"] if b["type"] != "markdown-block"] == [
        b for b in saved["blocks"] if b["type"] != "markdown-block"
    ]


def test_a_table_that_was_changed_is_named(runs: Path) -> None:
    saved = report_spec([runs])
    [block] = [b for b in saved["blocks"] if b["type"] == "markdown-block"]
    block["content"] = block["content"].replace("\n", " \r\n")  # what a page may do
    assert merged_report(saved, report_spec([runs]))[1] == []
    block["content"] = block["content"].replace("85", "99")
    assert merged_report(saved, report_spec([runs]))[1] == ["table"]


def test_a_table_that_was_removed_comes_back_at_the_end(runs: Path) -> None:
    ours = report_spec([runs])
    saved = {**ours, "blocks": [{"type": "paragraph", "children": [{"text": "Mine."}]}]}
    spec, lost = merged_report(saved, ours)
    assert lost == [] and spec["blocks"] == saved["blocks"] + ours["blocks"]
    assert SIGNED.search(content(spec))


def test_without_a_finished_run_there_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(RwpError, match="no finished run"):
        report_spec([tmp_path])
