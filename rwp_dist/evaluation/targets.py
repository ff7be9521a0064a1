"""Which checkpoints are evaluated. Imports no torch."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rwp_dist.base.errors import ConfigError, RwpError
from rwp_dist.config import Settings, load_settings
from rwp_dist.process.paths import is_override
from rwp_dist.record.directory import RunDir, run_directories


class Target(NamedTuple):
    """A checkpoint, and how it is evaluated."""

    run: RunDir
    settings: Settings
    checkpoint: Path


def find_targets(
    words: Sequence[str], checkpoint: Path | None, data: str | None = None
) -> tuple[list[Target], dict[Path, str]]:
    """One for each run, and why others in the folders are left out.

    A run that is named itself is evaluated as far as it is.

    Args:
        words: run directories, folders that have some at any depth, and overrides of settings.
        checkpoint: a file of the only run; None: each run's newest.
        data: other evaluation shards; None: each run's own.

    Raises:
        ConfigError: no run is named, several for one checkpoint, or settings are wrong.
        RwpError: a folder has no run, or a run has no checkpoint.
    """
    overrides = [word for word in words if is_override(word)]
    named = set(overrides)
    if data is not None:
        overrides.append(f"data.val={json.dumps(data)}")
    runs: dict[Path, RunDir] = {}
    left_out: dict[Path, str] = {}
    unreadable: dict[Path, str] = {}
    for path in (Path(word) for word in words if word not in named):
        folders = run_directories(path, unreadable)
        found = [run for run in map(RunDir, folders) if run.config.is_file()]
        if not found:
            raise RwpError(
                f"{path}: is no run directory (no config.yaml there)", cure="name one under runs/"
            )
        for run in found:
            if run.path != path and (why := unfinished(run)):
                left_out[run.path] = why
            else:
                runs.setdefault(run.path.resolve(), run)
    if not runs:
        why_not = "".join(f"; {path}: {why}" for path, why in list(left_out.items())[:5])
        raise ConfigError(f"there is no run to evaluate{why_not}", cure="name a run's directory")
    if checkpoint and len(runs) > 1:
        raise ConfigError(
            f"these are {len(runs)} runs", key="--checkpoint", cure="name the run that it is of"
        )
    targets = [
        Target(run, load_settings(run.config, overrides), checkpoint or run.newest_checkpoint())
        for run in runs.values()
    ]
    left_out = {path: why for path, why in left_out.items() if path.resolve() not in runs}
    return targets, left_out | unreadable


def find_target(run: str, overrides: Sequence[str], checkpoint: Path | None) -> Target:
    """The one run that is meant.

    Args:
        run: its directory, or a folder with no other.
        overrides: of its settings.
        checkpoint: a file of it; None: its newest.

    Raises:
        ConfigError: there are several, or settings are wrong.
        RwpError: there is no run, or it has no checkpoint.
    """
    targets, _ = find_targets([run, *overrides], checkpoint)
    if len(targets) > 1:
        raise ConfigError(
            f"{run}: here are {len(targets)} runs", cure=f"name one, such as {targets[0].run.path}"
        )
    return targets[0]


def unfinished(run: RunDir) -> str | None:
    """In which state a run is that has not finished; None: it has, or does not say."""
    state = (run.read_status() or {}).get("state", "finished")
    return None if state == "finished" else str(state)
