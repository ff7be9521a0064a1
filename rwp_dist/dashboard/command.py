"""``rwp-dist dashboard``: save the view and the report in W&B, or write them to a file."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rwp_dist.base import disk
from rwp_dist.base.errors import ConfigError
from rwp_dist.base.files import write_json
from rwp_dist.config import Settings, load_settings
from rwp_dist.config.tree import Tracking
from rwp_dist.dashboard.merge import merged
from rwp_dist.dashboard.report import REPORT, merged_report, report_spec
from rwp_dist.dashboard.save import Kind, connect, save
from rwp_dist.dashboard.workspace import VIEW, check_library, view_spec
from rwp_dist.record.directory import RunDir, run_directories
from rwp_dist.tracking.wandb import choose_mode

FILE = Path("runs/dashboard.json")
"""Where the specification goes if it cannot be saved."""


def make_dashboard(
    runs: Sequence[Path],
    entity: str | None = None,
    project: str | None = None,
    out: Path | None = None,
    overwrite: bool = False,
) -> Iterator[str]:
    """Create or update the view, and the report if there are runs. Nobody is asked for anything.

    Args:
        runs: run directories, or folders of them, for the table of the report.
        entity: W&B entity; None: that of the runs, else the login's own.
        project: W&B project; None: that of the runs, else ``tracking.project``'s default.
        out: a file to write to, rather than W&B.
        overwrite: whether what a person changed in our own parts may be lost.

    Yields:
        Lines for the user, when what they say is done.

    Raises:
        ConfigError: the library is missing, or runs are of several projects.
        RwpError: W&B cannot be reached or refuses, changes would be lost, there is no finished
            run, or the file cannot be written.
    """
    check_library()
    tracked = tracking_of(runs, entity, project)
    view = view_spec(tracked.entity or "", tracked.project)
    report = report_spec(runs) if runs else None
    mode, why = ("off", "") if out else choose_mode(Settings())
    if mode != "online":
        yield from write(out or FILE, tracked, view, report, why)
        return
    there = connect(tracked.entity, tracked.project)
    parts = [(workspace_kind(), VIEW, view)]
    parts += [(report_kind(), REPORT, report)] if report is not None else []
    for kind, title, spec in parts:
        what, url = save(there, kind, title, spec, overwrite)
        yield f"{kind.noun.capitalize()} {what}: {url}"


def tracking_of(runs: Sequence[Path], entity: str | None, project: str | None) -> Tracking:
    """Where the runs went, unless the user says otherwise.

    Raises:
        ConfigError: to several projects.
    """
    folders = [folder for path in runs for folder in run_directories(path)]
    known = []
    for folder in folders:
        with suppress(ConfigError):  # an older version's; the table does without them too
            known.append(load_settings(RunDir(folder).config).tracking)
    places = {(entity or one.entity, project or one.project) for one in known}
    if len(places) > 1:
        raise ConfigError(
            f"these runs are in {len(places)} W&B projects",
            cure="name one with --project and --entity",
        )
    default = load_settings(None).tracking
    [(entity, name)] = places or {(entity or default.entity, project or default.project)}
    try:
        return Tracking(entity=entity, project=name)
    except ValidationError as error:
        wrong = error.errors()[0]
        raise ConfigError(
            f"{wrong['input']!r} is not allowed",
            key=f"--{wrong['loc'][0]}",
            cure=wrong["msg"].removeprefix("Value error, "),
        ) from None


def write(
    path: Path, tracked: Tracking, view: dict[str, Any], report: dict[str, Any] | None, why: str
) -> list[str]:
    """Write the specification; ``why`` it is not saved in W&B, empty if the user asked for it.

    Raises:
        RwpError: the file cannot be written.
    """
    content: dict[str, Any] = {"entity": tracked.entity, "project": tracked.project}
    content["view"] = {"name": VIEW, "spec": view}
    if report is not None:
        content["report"] = {"title": REPORT, "spec": report}
    try:
        write_json(path, content)
    except OSError as error:
        raise disk.unwritable(path, error, "give --out") from None
    cures = {"": "without --out", "no login found": "after `wandb login`"}
    how = cures.get(why, "with W&B online")
    return [
        f"Written: {path}" + (f" (W&B is offline: {why})" if why else ""),
        f"The same command {how} saves it in W&B. W&B's page cannot import the file: it is to "
        "read, and to compare under version control.",
    ]


def workspace_kind() -> Kind:
    """A saved view of a project's workspace."""
    from wandb_workspaces.workspaces import internal

    return Kind(
        type="project-view",
        noun="view",
        merge=merged,
        rescue="move what you changed to a section of your own",
        new_name=internal._generate_view_name,
        url=lambda view: f"?nw={internal._internal_name_to_url_query_str(view['name'])}",
    )


def report_kind() -> Kind:
    """A report."""
    from wandb_workspaces.reports.v2 import internal

    return Kind(
        type="runs",
        noun="report",
        merge=merged_report,
        rescue="move what you changed to a text of your own",
        new_name=internal._generate_name,
        url=lambda view: f"/reports/{view['displayName'].replace(' ', '-')}--{view['id']}",
    )
