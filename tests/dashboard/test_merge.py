"""A saved view that people changed: what a second call does to it."""

import copy
from dataclasses import replace
from typing import Any

import pytest

from rwp_dist.dashboard.merge import OVERRIDE, merged
from rwp_dist.dashboard.panels import DATA, RESULTS, Panel
from rwp_dist.dashboard.workspace import sections_of, view_spec

NEWER = replace(RESULTS, panels=(Panel("New", "New.", ("eval/top1",)), *RESULTS.panels[1:]))


def spec(*sections: Any) -> dict[str, Any]:
    return view_spec("me", "p", sections or (RESULTS, DATA))


def bank(view: dict[str, Any]) -> dict[str, Any]:
    return view["section"]["panelBankConfig"]


def names(view: dict[str, Any]) -> list[str]:
    return [section["name"] for section in sections_of(view)]


def test_what_nobody_changed_stays_as_it_is() -> None:
    assert merged(spec(), spec()) == (spec(), [])


def test_all_that_is_not_ours_is_kept() -> None:
    saved = spec()
    section = saved["section"]
    mine = {"__id__": "m", "name": "Mine", "panels": [{"viewType": "Unheard of"}], "new": 1}
    sections_of(saved).insert(0, mine)
    sections_of(saved)[2].update(isOpen=True, pinned=True)
    section["runSets"][0]["filters"] = {"filterFormat": "filterV2", "filters": [1]}
    section["runSets"][0]["grouping"] = []
    section["settings"]["smoothingWeight"] = 5
    section["workspaceSettings"] = {"of": "a newer page"}
    section["customRunColors"]["run"] = "red"
    assert merged(saved, spec()) == (saved, [])


def test_a_newer_version_replaces_panels_and_keeps_the_section_as_it_was_left() -> None:
    saved, ours = spec(), spec(NEWER, DATA)
    sections_of(saved)[0].update(isOpen=False, name="Wins")
    kept = {"x": 8, "y": 0, "w": 16, "h": 6}
    sections_of(saved)[0]["panels"][1]["layout"] = kept
    bank(saved)["panelPlacementOverrides"] = {
        "a": {"sectionId": sections_of(saved)[0]["__id__"]},
        "b": {"sectionId": "other"},
    }
    view, lost = merged(saved, ours)
    assert lost == []
    assert names(view) == ["Wins", "Data"] and not sections_of(view)[0]["isOpen"]
    panels = sections_of(view)[0]["panels"]
    assert [p["config"] for p in panels] == [p["config"] for p in sections_of(ours)[0]["panels"]]
    assert panels[1]["layout"] == kept
    moved = bank(view)["panelPlacementOverrides"]
    assert moved["a"]["sectionId"] == sections_of(ours)[0]["__id__"]
    assert moved["b"]["sectionId"] == "other"
    assert merged(view, ours) == (view, [])


def retitle(section: dict[str, Any], _: dict[str, Any]) -> None:
    section["panels"][0]["config"]["chartTitle"] = "Mine"


def add(section: dict[str, Any], _: dict[str, Any]) -> None:
    section["panels"].append({"__id__": "x", "viewType": "Markdown Panel", "config": {}})


def remove(section: dict[str, Any], _: dict[str, Any]) -> None:
    del section["panels"][2]


def override(section: dict[str, Any], bank: dict[str, Any]) -> None:
    bank["panelConfigOverrides"] = {OVERRIDE + section["panels"][0]["__id__"]: {"limit": 3}}


@pytest.mark.parametrize("change", [retitle, add, remove, override])
@pytest.mark.parametrize("ours", [spec(), spec(NEWER, DATA)], ids=["same version", "newer"])
def test_a_section_of_ours_that_was_changed_is_named_and_replaced(change: Any, ours: Any) -> None:
    saved = spec()
    change(sections_of(saved)[0], bank(saved))
    before = copy.deepcopy(saved)
    view, lost = merged(saved, ours)
    assert lost == ["Results"] and saved == before
    assert sections_of(view) == sections_of(ours)
    assert not bank(view).get("panelConfigOverrides")
    assert merged(view, ours) == (view, [])


def test_a_section_that_was_deleted_comes_back_at_the_end() -> None:
    saved = spec()
    del sections_of(saved)[0]
    view, lost = merged(saved, spec())
    assert names(view) == ["Data", "Results"] and lost == []


def test_a_section_without_our_id_is_known_by_its_name() -> None:
    saved = spec()
    for section in sections_of(saved):
        section["__id__"] = None
    assert merged(saved, spec()) == (spec(), [])
    retitle(sections_of(saved)[0], {})
    assert merged(saved, spec())[1] == ["Results"]
