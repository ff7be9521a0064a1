"""The report: the table of ``rwp-dist compare`` above curves of all runs of the project."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rwp_dist.compare import Comparison, comparison_of
from rwp_dist.dashboard.panels import IN_THE_REPORT
from rwp_dist.dashboard.workspace import panel_of, stable_id

REPORT = "rwp-dist comparison"
"""The title of the report in W&B."""

SIGNATURE = "*Written by `rwp-dist dashboard` ({}), which replaces this table and nothing else.*"
SIGNED = re.compile(re.escape(SIGNATURE).replace(r"\{\}", "([0-9a-f]{12})"))


def report_spec(paths: Sequence[Path]) -> dict[str, Any]:
    """The specification of the report, as the JSON that W&B keeps. Needs no login and no network.

    Args:
        paths: run directories, or folders that have some at any depth.

    Raises:
        RwpError: a path is missing, or no finished run is among them.
    """
    from wandb_workspaces.reports import v2 as wr

    grid = wr.PanelGrid(
        runsets=[wr.Runset(groupby=["group"])],  # of the report's own project
        panels=[panel_of(REPORT, panel) for panel in IN_THE_REPORT],
    )
    grid.runsets[0]._id = stable_id(REPORT, "runs")
    report = wr.Report(
        entity="",
        project="",
        title=REPORT,
        blocks=[wr.MarkdownBlock(signed(table(comparison_of(paths)))), grid],
        width="fluid",
    )
    spec: dict[str, Any] = json.loads(
        report._to_model().spec.model_dump_json(by_alias=True, exclude_none=True)
    )
    return spec


def table(comparison: Comparison) -> str:
    """The table and its notes in Markdown."""
    lines = [*comparison.markdown_tables(), *comparison.markdown_notes()]
    return "\n".join(["## Comparison", "", *lines])


def signed(text: str) -> str:
    """A text with a line that says who wrote it, and has its digest."""
    return f"{text}\n\n{SIGNATURE.format(_digest(text))}"


def merged_report(saved: dict[str, Any], ours: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The saved report with our table; if that was removed, with all that we write at its end.

    Returns:
        The specification, and what of it loses a person's changes: the table or nothing.
    """
    [new] = [block for block in ours["blocks"] if SIGNED.search(block.get("content", ""))]
    blocks, changed, there = [], [], False
    for block in saved["blocks"]:
        text = block.get("content", "")
        if found := SIGNED.search(text):
            there = True
            if found[1] != _digest(SIGNED.sub("", text)):
                changed.append("table")
            block = {**block, "content": new["content"]}
        blocks.append(block)
    return {**saved, "blocks": blocks if there else blocks + ours["blocks"]}, changed


def _digest(text: str) -> str:
    return stable_id(" ".join(text.split()))  # pages change white space
