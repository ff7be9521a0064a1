"""A saved specification brought up to date: only what this package wrote is replaced.

Of a section, the panels are ours. Whether it is open, its name, its grid and its place are the
reader's, and so is all else in the view: other sections, runs, filters, colours, settings.
"""

import copy
from collections.abc import Sequence
from typing import Any

from rwp_dist.dashboard.workspace import digest, section_id, sections_of, stable_id

OVERRIDE = "__custom_panel__:"
"""Before a panel's id: the key under which W&B's page keeps what somebody set in that panel."""


def merged(saved: dict[str, Any], ours: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The saved specification with our sections as they are now, new ones at the end.

    Args:
        saved: what W&B has.
        ours: of ``view_spec``.

    Returns:
        The specification, and the names of sections of which a person's changes are lost in it.
    """
    spec = copy.deepcopy(saved)
    bank = spec["section"]["panelBankConfig"]
    changed = []
    for section in sections_of(ours):
        there = find(sections_of(spec), section)
        if there is None:
            sections_of(spec).append(section)
            continue
        if changed_by_hand(there, section, bank):
            changed.append(there["name"])
        _replace(there, section, bank)
    return spec, changed


def find(sections: Sequence[dict[str, Any]], section: dict[str, Any]) -> dict[str, Any] | None:
    """Our section among the saved ones: by its id, else by its name."""
    own = stable_id(section["name"])
    by_id = [there for there in sections if str(there.get("__id__", "")).startswith(own)]
    by_name = [there for there in sections if there.get("name") == section["name"]]
    return next(iter(by_id + by_name), None)


def changed_by_hand(there: dict[str, Any], section: dict[str, Any], bank: dict[str, Any]) -> bool:
    """Whether the panels of a saved section are not those that were last written there."""
    own = stable_id(section["name"])
    now, kept_id = digest(there["panels"]), str(there.get("__id__", ""))
    written = kept_id if kept_id.startswith(own) else section["__id__"]
    overrides = bank.get("panelConfigOverrides") or {}
    overridden = any(f"{OVERRIDE}{panel.get('__id__')}" in overrides for panel in there["panels"])
    return written != section_id(section["name"], now) or overridden


def _replace(there: dict[str, Any], section: dict[str, Any], bank: dict[str, Any]) -> None:
    """Give a saved section our panels, each in the place that its namesake has."""
    places = {panel.get("__id__"): panel.get("layout") for panel in there["panels"]}
    there["panels"] = [
        {**panel, "layout": places.get(panel["__id__"]) or panel["layout"]}
        for panel in section["panels"]
    ]
    overrides = bank.get("panelConfigOverrides") or {}
    for panel_id in places:
        overrides.pop(f"{OVERRIDE}{panel_id}", None)
    for placement in (bank.get("panelPlacementOverrides") or {}).values():
        if isinstance(placement, dict) and placement.get("sectionId") == there.get("__id__"):
            placement["sectionId"] = section["__id__"]
    there["__id__"] = section["__id__"]
