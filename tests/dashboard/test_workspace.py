"""The specification: valid to the library, twice the same, and of the panels alone."""

import builtins
import json
import socket
from typing import Any

import pytest
from support.wandb_specs import strings
from wandb_workspaces.workspaces import Workspace, internal

from rwp_dist.base.errors import ConfigError
from rwp_dist.dashboard.panels import SECTIONS
from rwp_dist.dashboard.workspace import (
    check_library,
    digest,
    sections_of,
    stable_id,
    view_spec,
)
from rwp_dist.tracking.columns import COLUMNS, STEP

LOGGED = {column.name for columns in COLUMNS.values() for column in columns}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("a specification takes no network")

    monkeypatch.setattr(socket.socket, "connect", refused)


def view(spec: dict[str, Any]) -> internal.View:
    parsed = internal.WorkspaceViewspec.model_validate(spec)
    return internal.View(
        entity="me", project="p", display_name="rwp-dist", name="nw-a-v", id="1", spec=parsed
    )


def sections(spec: dict[str, Any]) -> list[Any]:
    return view(spec).spec.section.panel_bank_config.sections


def test_the_library_takes_it_and_gives_it_back() -> None:
    spec = view_spec("me", "p")
    again = Workspace._from_model(view(spec))._to_model().spec
    assert json.loads(again.model_dump_json(by_alias=True, exclude_none=True)) == spec
    kinds = {type(p).__name__ for s in sections(spec) for p in s.panels}
    assert kinds == {"LinePlot", "BarPlot"}  # it does not refuse a kind that it does not know


def test_it_is_the_same_twice() -> None:
    assert json.dumps(view_spec("me", "p")) == json.dumps(view_spec("me", "p"))


def test_it_names_only_what_runs_log_and_every_line_says_its_x() -> None:
    configs = [p["config"] for s in sections_of(view_spec("me", "p")) for p in s["panels"]]
    lines = [config for config in configs if "xAxis" in config]
    assert len(lines) == sum(p.kind == "lines" for s in SECTIONS for p in s.panels)
    assert {name for config in lines for name in config["metrics"]} <= LOGGED
    assert {config["xAxis"] for config in lines} <= LOGGED | {STEP}
    with_slash = {text for text in strings(configs) if "/" in text}
    assert with_slash <= LOGGED


def test_runs_are_grouped_by_seeds_and_some_panels_by_method() -> None:
    spec = view_spec("me", "p")
    [runs] = spec["section"]["runSets"]
    assert runs["grouping"] == [{"section": "run", "name": "group"}]
    by = [p["config"].get("groupBy") for s in sections_of(spec) for p in s["panels"]]
    wanted = [p.group == "method" for s in SECTIONS for p in s.panels]
    assert by == ["method.value.name" if method else None for method in wanted]


def test_ids_are_unique_and_say_which_section() -> None:
    sections = sections_of(view_spec("me", "p"))
    ids = [p["__id__"] for s in sections for p in s["panels"]]
    assert len(set(ids)) == len(ids)
    assert [s["__id__"] for s in sections] == [
        stable_id(s.title) + digest(sections[i]["panels"]) for i, s in enumerate(SECTIONS)
    ]


def test_a_digest_sees_what_a_person_changes_and_not_what_the_page_adds() -> None:
    panels = sections_of(view_spec("me", "p"))[0]["panels"]
    before = digest(panels)
    assert digest([{**p, "layout": {"x": 1}, "isAuto": None} for p in panels]) == before
    assert digest([{**p, "config": {**p["config"], "limit": None}} for p in panels]) == before
    assert digest(panels[1:]) != before and digest(panels[::-1]) != before
    assert digest([{**p, "config": {**p["config"], "limit": 3}} for p in panels]) != before


def test_without_the_library_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("wandb_workspaces"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        ConfigError, match=r"^the package .*; pip install 'rwp-dist\[dashboard\]'.$"
    ):
        check_library()
