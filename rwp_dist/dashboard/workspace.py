"""The view's specification, as W&B keeps it: made by wandb-workspaces, with ids that stay.

The library gives random ids, so that no two of its specifications are equal. Here an id is a hash
of names. The id of a section also has a digest of its panels, by which a later call sees whether
somebody changed them: W&B keeps ids.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from rwp_dist.base.errors import ConfigError
from rwp_dist.compare import STYLES
from rwp_dist.dashboard.panels import COLUMNS_OF_RUNS, SECTIONS, Panel, Section

VIEW = "rwp-dist"
"""The name of the view in W&B."""

COLUMNS = 3
"""Panels beside each other."""


def check_library() -> None:
    """Refuse to begin without the library.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import wandb_workspaces.workspaces  # noqa: F401
    except ImportError:
        raise ConfigError(
            "the package wandb-workspaces is not installed",
            cure="pip install 'rwp-dist[dashboard]'",
        ) from None


def view_spec(entity: str, project: str, sections: Sequence[Section] = SECTIONS) -> dict[str, Any]:
    """The specification of the view, as the JSON that W&B keeps. Needs no login and no network.

    Args:
        entity: whose project it is; empty if not known.
        project: name of the project.
        sections: what to show.
    """
    from wandb_workspaces import expr
    from wandb_workspaces import workspaces as ws

    workspace = ws.Workspace(
        entity=entity,
        project=project,
        name=VIEW,
        sections=[_section(section) for section in sections],
        settings=ws.WorkspaceSettings(max_runs=100),
        runset_settings=ws.RunsetSettings(
            groupby=[expr.Metric("Group")],  # of a run without a label of its own: the method
            group_colors={label: style.colour for label, style in STYLES.items()},
            pinned_columns=[f"summary:{key}" for key in COLUMNS_OF_RUNS],
        ),
    )
    workspace._internal_runset_id = stable_id(VIEW, "runs")
    spec: dict[str, Any] = json.loads(
        workspace._to_model().spec.model_dump_json(by_alias=True, exclude_none=True)
    )
    for section in sections_of(spec):
        section["__id__"] = section_id(section["name"], digest(section["panels"]))
    return spec


def sections_of(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The sections of a specification."""
    found: list[dict[str, Any]] = spec["section"]["panelBankConfig"]["sections"]
    return found


def panel_of(section: str, panel: Panel) -> Any:
    """A panel as the library's object; ``section`` makes its id."""
    from wandb_workspaces.reports import v2 as wr

    over: dict[str, Any] = {"title": panel.title, "groupby_aggfunc": "mean"}
    if panel.group == "method":
        over["groupby"] = wr.Config("method.name")
    if panel.kind == "bars":
        made = wr.BarPlot(metrics=list(panel.y), groupby_rangefunc="stddev", **over)
    else:
        made = wr.LinePlot(x=panel.x, y=list(panel.y), groupby_rangefunc="minmax", **over)
    made._id = stable_id(section, panel.title)
    return made


def _section(section: Section) -> Any:
    from wandb_workspaces import workspaces as ws

    rows = -(-len(section.panels) // COLUMNS)
    return ws.Section(
        name=section.title,
        panels=[panel_of(section.title, panel) for panel in section.panels],
        is_open=section.is_open,
        layout_settings=ws.SectionLayoutSettings(columns=COLUMNS, rows=rows),
    )


# --- ids ---


def stable_id(*names: str) -> str:
    """Twelve hexadecimal digits from names, in the alphabet and length of the library's ids."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]


def section_id(title: str, content: str) -> str:
    """The id of a section: its name's, then the digest of its panels."""
    return stable_id(title) + content


def digest(panels: Sequence[dict[str, Any]]) -> str:
    """Twelve hexadecimal digits that change when a panel is changed, added, moved or removed.

    What W&B's page adds by itself, such as the place in a grid, does not count.
    """
    content = [
        {"id": panel.get("__id__"), "kind": panel.get("viewType"), "config": panel.get("config")}
        for panel in panels
    ]
    return stable_id(json.dumps(without_nulls(content), sort_keys=True))


def without_nulls(value: Any) -> Any:
    """A copy of nested lists and dicts without keys whose value is null: to W&B they are absent."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value
