"""The runs of a sweep, and what their folders hold already. Imports no torch."""

from collections.abc import Sequence
from typing import Any

from rwp_dist.base.errors import ConfigError
from rwp_dist.base.text import DASH, plural, table
from rwp_dist.base.urls import shown_text
from rwp_dist.config import (
    Affects,
    Settings,
    known_keys,
    load_settings,
    unused_keys,
    values_by_key,
)
from rwp_dist.record.directory import RunDir
from rwp_dist.record.identity import differences, sentences, settings_identity
from rwp_dist.record.resume import changed_settings

MOST_NAMED = 3
"""Folders that one message names."""


def other_runs(runs: Sequence[Settings], ranks: int) -> ConfigError | None:
    """The error of a sweep whose folders hold runs, or waiting jobs, with other settings.

    It names the first of them, and what differs. None: there are none.
    """
    found: list[str] = []
    for settings in runs:
        run_dir = RunDir(str(settings.run.dir))
        try:
            changed_settings(run_dir, settings, ranks)
        except ConfigError as error:
            found.append(error.problem)
        else:
            found += _other_job(run_dir, settings, ranks)
    if not found:
        return None
    more = len(found) - MOST_NAMED
    return ConfigError(
        "; ".join([*found[:MOST_NAMED], *([f"and {more} more"] if more > 0 else [])]),
        key="--dir",
        cure="name another folder, or remove these",
    )


def describe(runs: Sequence[Settings]) -> list[str]:
    """Lines of a table of the runs: folder, state, and the settings in which they differ."""
    used = []
    for run in runs:
        unused = unused_keys(run)
        used.append({k: v for k, v in values_by_key(run).items() if k not in unused})
    keys = [key for key in known_keys() if _counts(key) and _differs(key, used)]
    rows = [["run", "state", *keys]]
    for run, values in zip(runs, used, strict=True):
        run_dir = RunDir(str(run.run.dir))
        cells = [shown_text(str(values.get(key, DASH))) for key in keys]
        rows.append([run_dir.path.name, _state(run_dir), *cells])
    return [*table(rows, num_left=2), plural(len(runs), "run")]


def _counts(key: str) -> bool:
    """Whether a setting is more than a name."""
    return key not in ("run.label", "run.name", "run.dir", "variant", "tracking.group")


def _differs(key: str, used: Sequence[dict[str, Any]]) -> bool:
    values = [each[key] for each in used if key in each]
    return any(value != values[0] for value in values)


def _state(run_dir: RunDir) -> str:
    if run_dir.summary.is_file():
        return "finished"
    if step := run_dir.saved_step():
        return f"at step {step:,}"
    return "queued" if run_dir.waits() else "new"


def _other_job(run_dir: RunDir, settings: Settings, ranks: int) -> list[str]:
    """Why a job that waits to train here is another one; empty if it is the same, or none waits."""
    if not run_dir.waits():
        return []
    there, here = (
        settings_identity(each, ranks) for each in (load_settings(run_dir.submitted), settings)
    )
    other = differences(there, here, (Affects.RESULT,))
    told = "; ".join(sentences(other, "there", "here"))
    return [f"{run_dir.path} has a job of another run ({told})"] if other else []
