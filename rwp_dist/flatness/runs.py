"""The runs to measure. Imports no torch, so that errors come at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rwp_dist.base.errors import ConfigError, RwpError
from rwp_dist.compare.runs import collect
from rwp_dist.config import Settings, get_setting, load_settings
from rwp_dist.record.directory import RunDir

SAME = (
    *("data.train", "data.mix", "data.image_size", "data.channels"),
    *("data.eval_crop_ratio", "data.interpolation", "model.num_classes"),
)
"""Settings that all runs must share, so that one sample of images serves all."""


@dataclass(frozen=True)
class Run:
    """A finished run."""

    directory: RunDir
    settings: Settings
    checkpoint: Path
    name: str
    """Of its directory, with the folders above if another run has the same."""

    @property
    def pieces(self) -> Path:
        """The file that keeps the pieces of its measurement."""
        return self.directory.measured / "flatness.jsonl"


def find_runs(
    paths: Sequence[Path], overrides: Sequence[str] = (), checkpoint: Path | None = None
) -> list[Run]:
    """Finished runs at or below some paths.

    Args:
        paths: run directories, or folders that have some at any depth.
        overrides: ``key=value`` for the settings of all.
        checkpoint: of a single run; each run's newest, unless given.

    Raises:
        ConfigError: a checkpoint is given for several runs, or they differ in their data.
        RwpError: there is no finished run, or one has no checkpoint.
    """
    found, left_out = collect(paths)
    if not found:
        reasons = "; ".join(f"{path}: {why}" for path, why in left_out.items())
        raise RwpError(
            f"no finished run to measure ({reasons or 'no run directory is there'})",
            cure="name one under runs/, or a folder of them",
        )
    if checkpoint and len(found) > 1:
        raise ConfigError(
            f"one file for {len(found)} runs", key="--checkpoint", cure="name the run that it is of"
        )
    runs, names = [], [run.path.name for run in found]
    for folder in (run.path for run in found):
        directory = RunDir(folder)
        settings = load_settings(directory.config, overrides)
        file = checkpoint or directory.newest_checkpoint()
        name = folder.name if names.count(folder.name) == 1 else str(folder)
        runs.append(Run(directory, settings, file, name))
    for key in SAME:
        values = list(dict.fromkeys(str(get_setting(run.settings, key)) for run in runs))
        if len(values) > 1:
            raise ConfigError(
                f"the runs differ in it ({' | '.join(values)}), and one sample serves all",
                key=key,
                cure="name runs that agree in it",
            )
    return runs
