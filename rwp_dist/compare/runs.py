"""Finished runs on disk, and what a comparison reads of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rwp_dist.base.errors import ConfigError, RwpError
from rwp_dist.config import Settings, load_settings
from rwp_dist.record.directory import RunDir, run_directories

NEEDED = ("label", "method", "steps", "samples", "device_seconds", "step_s", "top1")
"""Keys that the summary of every compared run must have."""


@dataclass(frozen=True)
class Run:
    """A finished run."""

    path: Path
    summary: dict[str, Any]
    """Contents of ``summary.json``."""

    evaluations: dict[int, dict[str, Any]]
    """Records of the evaluations by step, which increases; each has a ``top1`` in percent."""

    measured: dict[str, float] = field(default_factory=dict)
    """What other commands measured of the finished network."""

    settings: Settings | None = None
    """Of ``config.yaml``; None if it is missing or this version cannot read it."""

    environment: dict[str, Any] = field(default_factory=dict)
    """Contents of ``environment.json``; empty if it is missing."""

    @property
    def label(self) -> str:
        """The name that it shares with other seeds of the same experiment."""
        return str(self.summary["label"])

    @property
    def seed(self) -> Any:
        """Its seed; None in a summary without one."""
        return self.summary.get("seed")

    def value(self, key: str) -> Any:
        """A number or text of the summary, or a number that was measured; None if there is none."""
        value = self.summary.get(key)
        value = self.measured.get(key) if value is None else value
        return value if isinstance(value, int | float | str) else None

    def number(self, key: str) -> float | None:
        """Likewise, but None for a text."""
        value = self.value(key)
        return None if value is None or isinstance(value, str) else float(value)

    def known(self) -> list[str]:
        """Keys of every ``value`` that it has."""
        return [key for key in {**self.summary, **self.measured} if self.value(key) is not None]


def collect(paths: Sequence[Path]) -> tuple[list[Run], dict[Path, str]]:
    """All finished runs at or below ``paths``, and why other run directories were left out.

    Raises:
        RwpError: a path does not exist.
    """
    found: dict[Path, Run | str] = {}
    for path in paths:
        if not path.is_dir():
            raise RwpError(f"{path}: there is no such folder", cure="name run directories")
        for folder in run_directories(path):
            if folder.resolve() not in {known.resolve() for known in found}:
                found[folder] = read_run(folder)
    runs = [run for run in found.values() if isinstance(run, Run)]
    return runs, {path: why for path, why in found.items() if isinstance(why, str)}


def read_run(folder: Path) -> Run | str:
    """The run in a directory, or why it cannot be compared."""
    directory = RunDir(folder)
    summary = directory.read_summary() or {}
    status = directory.read_status() or {}
    # A finished run that now goes on with more epochs has an old summary.
    states = (status.get("state"), summary.get("state"))
    if state := next((state for state in states if state not in (None, "finished")), None):
        step, total = status.get("step"), status.get("total_steps")
        return f"{state} at step {step:,} of {total:,}" if step is not None and total else state
    if not summary:
        return "no summary"
    if missing := [key for key in NEEDED if summary.get(key) is None]:
        return f"its summary has no {', '.join(missing)}"
    evaluations = {
        int(record["step"]): record
        for record in directory.read_metrics("eval")
        if record.get("step") is not None and record.get("top1") is not None
    }
    try:
        settings = load_settings(directory.config)
    except ConfigError:
        settings = None
    return Run(
        folder,
        summary,
        dict(sorted(evaluations.items())),
        directory.read_numbers(),
        settings,
        directory.read_environment() or {},
    )
