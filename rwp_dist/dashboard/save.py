"""Saved views and reports of a W&B project: found, created and updated, over W&B's GraphQL.

To W&B both are views: a name that people see, and a specification as JSON. The library wandb-
workspaces can save one, but it can neither look for one by that name nor update one without losing
what it does not know of it. So the requests are made here, with the documents that it and wandb
send.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rwp_dist.base.errors import RwpError
from rwp_dist.base.urls import shown
from rwp_dist.tracking.connection import end_service_at_exit
from rwp_dist.tracking.sink import first_line

TIMEOUT_S = 20
"""How long one request may take, in seconds; there are five or so."""

LIST = """
query ProjectViews($project: String!, $entity: String!, $after: String, $first: Int!,
        $viewType: String) {
    project(name: $project, entityName: $entity) {
        allViews(viewType: $viewType, first: $first, after: $after) {
            edges { node { id name displayName } }
            pageInfo { endCursor hasNextPage }
        }
    }
}
"""
READ = "query SpecificView($id: ID!) { view(id: $id) { id spec } }"
SAVE = """
mutation UpsertView($id: ID, $entityName: String, $projectName: String, $type: String,
        $name: String, $displayName: String, $description: String, $spec: String) {
    upsertView(input: {id: $id, entityName: $entityName, projectName: $projectName, name: $name,
            displayName: $displayName, description: $description, type: $type, spec: $spec,
            createdUsing: WANDB_SDK}) {
        view { id name }
        inserted
    }
}
"""

Merge = Callable[[dict[str, Any], dict[str, Any]], tuple[dict[str, Any], list[str]]]
"""From a saved specification and ours to the new one, and what of a person's is lost in it."""


@dataclass(frozen=True)
class Kind:
    """What kind of view is saved."""

    type: str
    """What W&B calls it."""

    noun: str
    """What people call it."""

    merge: Merge

    rescue: str
    """What else to do with what somebody changed in our parts, for the cure of an error."""

    new_name: Callable[[], str]
    """A fresh name that is part of addresses, as the library makes it."""

    url: Callable[[dict[str, Any]], str]
    """The end of its address, from ``id``, ``name`` and ``displayName``."""


@dataclass(frozen=True)
class Project:
    """A project of a W&B server, to which somebody is logged in."""

    api: Any
    """A ``wandb.Api``."""

    entity: str
    name: str

    def __str__(self) -> str:
        return f"{self.entity}/{self.name}"


def connect(entity: str | None, project: str) -> Project:
    """Use the login that this machine has.

    Args:
        entity: None: the login's own.
        project: name of the project.

    Raises:
        RwpError: the server cannot be reached, or refuses the login.
    """
    import wandb

    try:
        api = wandb.Api(timeout=TIMEOUT_S)
        entity = entity or api.settings["entity"] or api.default_entity
    except Exception as error:  # of many types, and the service's own
        raise _failed("W&B cannot be used", error) from None
    finally:
        end_service_at_exit()
    if not entity:
        raise RwpError("this W&B login has no entity of its own", cure="name one with --entity")
    return Project(api, entity, project)


def save(
    project: Project, kind: Kind, title: str, ours: dict[str, Any], overwrite: bool
) -> tuple[str, str]:
    """Create the view with this title, or bring it up to date.

    Args:
        project: where.
        kind: a workspace or a report.
        title: the name that people see.
        ours: the specification of a new one.
        overwrite: whether what a person changed in our parts may be lost.

    Returns:
        What was done ("created", "updated" or "unchanged"), and its address.

    Raises:
        RwpError: a person's changes would be lost, the project is missing, or W&B refuses.
    """
    found = [view for view in views(project, kind) if view["displayName"] == title]
    if len(found) > 1:
        raise RwpError(
            f"{project}: {len(found)} {kind.noun}s are called {title}",
            cure="rename all but one in W&B",
        )
    if not found:
        new = {"name": kind.new_name(), "displayName": title}
        return "created", _upsert(project, kind, new | {"description": ""}, ours)
    saved = _load(_ask(project, READ, {"id": found[0]["id"]}), project, kind)
    try:
        spec, lost = kind.merge(saved, ours)
    except (KeyError, TypeError, AttributeError):
        raise RwpError(
            f"{project}: the {kind.noun} {title} has a form that is not known here",
            cure="rename it in W&B, so that a new one is made, or update wandb-workspaces",
        ) from None
    if lost and not overwrite:
        raise RwpError(
            f"{project}: this would overwrite what was changed by hand in the {kind.noun} {title} "
            f"({', '.join(lost)}), so nothing was saved of it",
            cure=f"add --overwrite, or {kind.rescue}",
        )
    if spec == saved:
        return "unchanged", _url(project, kind, found[0])
    return "updated", _upsert(project, kind, found[0], spec)


def views(project: Project, kind: Kind) -> list[dict[str, Any]]:
    """``id``, ``name`` and ``displayName`` of all views of this kind.

    Raises:
        RwpError: the project does not exist, or W&B refuses.
    """
    found: list[dict[str, Any]] = []
    after = None
    while True:
        asked = {"project": project.name, "entity": project.entity, "viewType": kind.type}
        answer = _ask(project, LIST, asked | {"first": 100, "after": after})
        if answer.get("project") is None:
            raise RwpError(
                f"{project}: W&B has no such project, or this login may not see it",
                cure="name another with --entity and --project, or train a run with W&B online, "
                "which makes it",
            )
        page = answer["project"]["allViews"]
        found += [edge["node"] for edge in page["edges"]]
        if not page["pageInfo"]["hasNextPage"]:
            return found
        after = page["pageInfo"]["endCursor"]


def _load(answer: dict[str, Any], project: Project, kind: Kind) -> dict[str, Any]:
    try:
        return dict(json.loads(answer["view"]["spec"]))
    except (KeyError, TypeError, ValueError):
        raise RwpError(
            f"{project}: W&B does not give what is saved of the {kind.noun}", cure="try again later"
        ) from None


def _upsert(project: Project, kind: Kind, view: dict[str, Any], spec: dict[str, Any]) -> str:
    """Save; returns the address."""
    where = {"entityName": project.entity, "projectName": project.name, "type": kind.type}
    answer = _ask(project, SAVE, {**where, **view, "spec": json.dumps(spec)})
    return _url(project, kind, view | answer["upsertView"]["view"])


def _url(project: Project, kind: Kind, view: dict[str, Any]) -> str:
    from wandb_workspaces._graphql import get_app_url

    return f"{get_app_url(project.api)}{project}{kind.url(view)}"


def _ask(project: Project, document: str, variables: dict[str, Any]) -> dict[str, Any]:
    """W&B's answer to a query or a mutation.

    Raises:
        RwpError: it refuses, or does not answer in time.
    """
    from wandb_workspaces._graphql import execute_graphql

    try:
        return dict(execute_graphql(project.api, document, variables))
    except Exception as error:  # of many types, and the service's own
        raise _failed(f"{project}: a request to W&B failed", error) from None


def _failed(what: str, error: Exception) -> RwpError:
    """The error as a sentence; a login that may not do it has another cure than a slow server."""
    import wandb

    response = getattr(error.__cause__ or error, "response", None)
    why = first_line(error)
    if response is None:
        if "in time" in str(error):  # it says that wandb's own service is busy
            server = shown(wandb.setup().settings.base_url)
            why = f"no answer of {server} in {TIMEOUT_S} s"
        return RwpError(
            f"{what} ({why})",
            cure="try again, or write the specification to a file with --out FILE",
        )
    return RwpError(
        f"{what} ({why})",
        cure="log in as somebody who may write there (`wandb login --relogin`), or name another "
        "project with --entity and --project",
    )
