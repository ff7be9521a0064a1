"""Which checkpoints are evaluated. Imports no torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rwp_dist.base.errors import ConfigError, RwpError
from rwp_dist.config import Settings, load_settings
from rwp_dist.record.directory import RunDir, run_directories


class Target(NamedTuple):
    """A checkpoint, and how it is evaluated."""

    run: RunDir
    settings: Settings
    checkpoint: Path


def find_targets(words: Sequence[str], checkpoint: Path | None) -> list[Target]:
    """One for each run.

    Args:
        words: run directories, folders that have some at any depth, and overrides of settings.
        checkpoint: a file of the only run; None: each run's newest.

    Raises:
        ConfigError: no run is named, several for one checkpoint, or settings are wrong.
        RwpError: a folder has no run, or a run has no checkpoint.
    """
    overrides = [word for word in words if "=" in word and not Path(word).exists()]
    runs: list[RunDir] = []
    for name in (word for word in words if word not in overrides):
        found = [run for run in map(RunDir, run_directories(Path(name))) if run.config.is_file()]
        if not found:
            raise RwpError(
                f"{name}: is no run directory (no config.yaml there)", cure="name one under runs/"
            )
        runs += found
    if not runs:
        raise ConfigError("there is no run to evaluate", cure="name its directory")
    if checkpoint and len(runs) > 1:
        raise ConfigError(
            f"these are {len(runs)} runs", key="--checkpoint", cure="name the run that it is of"
        )
    return [
        Target(run, load_settings(run.config, overrides), checkpoint or run.newest_checkpoint())
        for run in runs
    ]
