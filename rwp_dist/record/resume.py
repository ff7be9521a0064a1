"""Whether a run directory can go on with the settings, data and code that are given now."""

import json
import os
import shlex
from collections.abc import Sequence
from typing import Any

from rwp_dist.base.errors import ConfigError
from rwp_dist.config import Affects, Settings
from rwp_dist.config.change import is_changeable
from rwp_dist.config.sources import read_variables
from rwp_dist.config.tree import Tracking
from rwp_dist.record.directory import RunDir
from rwp_dist.record.identity import (
    ALLOWED,
    Difference,
    Identity,
    affects_of,
    begun_settings,
    changes,
    differences,
    identity_in,
    other_run,
    sentences,
    settings_identity,
)


def continued_settings(run_dir: RunDir, settings: Settings) -> Settings:
    """``settings`` of a run that goes on.

    Null for ``optimizer.no_decay`` is what it began with, and so is its page in W&B, unless a file
    or the command line names another.

    Raises:
        ConfigError: the settings in the directory cannot be read.
    """
    if not _has_begun(run_dir):
        return settings
    begun = begun_settings(run_dir)
    update: dict[str, Any] = {"tracking": _same_page(begun, settings)}
    if settings.optimizer.no_decay is None:
        patterns = {"no_decay": begun.optimizer.no_decay}
        update["optimizer"] = settings.optimizer.model_copy(update=patterns)
    return settings.model_copy(update=update)


def _same_page(begun: Settings, settings: Settings) -> Tracking:
    """``tracking`` with project, entity and name of the run's first attempt.

    A value that a variable of this shell gives, or that is the default, was not asked for.
    """
    variables = dict(read_variables(os.environ))
    kept = {}
    for name in ("project", "entity", "name"):
        value = getattr(settings.tracking, name)
        unasked = (variables.get(f"tracking.{name}"), Tracking.model_fields[name].default)
        if value in unasked:
            kept[name] = getattr(begun.tracking, name)
    return settings.tracking.model_copy(update=kept)


def changed_settings(run_dir: RunDir, settings: Settings, ranks: int) -> list[str]:
    """What settings and the number of ranks change in a run that goes on (``changes_of``).

    Raises:
        ConfigError: the directory holds a run with other settings, or they cannot be read.
    """
    now = settings_identity(continued_settings(run_dir, settings), ranks)
    return changes_of(run_dir, now)


def changes_of(run_dir: RunDir, now: Identity) -> list[str]:
    """What changes in a run that goes on, as ``key: a before, b now``.

    Empty for a new run. What affects the result may not change.

    Args:
        run_dir: of the run.
        now: its identity from here on; keys that it lacks count as the same.

    Raises:
        ConfigError: the directory holds another run.
    """
    before = identity_in(run_dir) if _has_begun(run_dir) else None
    found = changes(before, now) if before else []
    if told := other_run(found, now):
        asked = how_to_change(found, now)
        raise ConfigError(
            f"{run_dir.path} holds another run ({told})",
            key="run.dir",
            cure=f"{asked}choose another run.dir or run.label, or remove that folder",
        )
    if before and any(difference.key in now.get(ALLOWED, ()) for difference in found):
        _check_steps_are_left(run_dir, before, now)
    return sentences(found, "before", "now")


def how_to_change(found: Sequence[Difference], now: Identity) -> str:
    """The first words of a cure of what ``other_run`` refuses; empty if a run cannot change it."""
    allowed = now.get(ALLOWED, ())
    refused = [d for d in found if affects_of(d.key) is Affects.RESULT and d.key not in allowed]
    if not all(is_changeable(d.key) for d in refused):
        return ""
    texts = [d.other if isinstance(d.other, str) else json.dumps(d.other) for d in refused]
    values = [f"{d.key}={text}" for d, text in zip(refused, texts, strict=True)]
    asked = " ".join(f"--change {shlex.quote(value)}" for value in values)
    return f"ask for it with `rwp-dist train ... {asked}`, "


def goes_on_changed(run_dir: RunDir, settings: Settings) -> bool:
    """Whether settings ask a finished run to go on, with others than it was finished with."""
    if not settings.run.change or not run_dir.summary.is_file():
        return False
    found = differences(identity_in(run_dir) or {}, settings_identity(settings, None))
    asked = [d.key for d in found if d.key in settings.run.change]
    return any(affects_of(key) is Affects.RESULT for key in asked)


def _check_steps_are_left(run_dir: RunDir, before: Identity, now: Identity) -> None:
    """Refuse a change after which the run has no step left, as far as its length is known.

    Raises:
        ConfigError: so it is.
    """
    done, total = run_dir.saved_step(), now.get("schedule.steps")
    length = "schedule.epochs" if total is None else "schedule.steps"
    known = (run_dir.read_status() or {}).get("total_steps")
    if total is None and before.get("schedule.steps") is None and known:
        total = round(known * now["schedule.epochs"] / before["schedule.epochs"])
    if total is not None and (total < done or (total == done and run_dir.summary.is_file())):
        raise ConfigError(
            f"{done:,} steps of the run are done, and it would have {total:,}",
            key="run.change",
            cure=f"make it longer as well, with --change {length}=N",
        )


def _has_begun(run_dir: RunDir) -> bool:
    begun = run_dir.summary.is_file() or run_dir.has_checkpoint()
    return begun and run_dir.config.is_file()
