"""Finding runs on disk and reading what a comparison needs of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rwp_dist.base.errors import RwpError
from rwp_dist.record.directory import RunDir, run_directories

NEEDED = ("label", "method", "steps", "samples", "device_seconds", "step_s", "top1")
"""Keys of a summary without which a run cannot be a row."""


@dataclass(frozen=True)
class Run:
    """A finished run."""

    path: Path
    summary: dict[str, Any]
    curve: tuple[tuple[int, float], ...]
    """(step, test top-1 in percent) of every evaluation, steps increasing."""

    settings: dict[str, Any] | None = None
    """What ``config.yaml`` says; None if it is missing or cannot be read."""

    @property
    def label(self) -> str:
        """What the run is a seed of."""
        return str(self.summary["label"])

    @property
    def seed(self) -> Any:
        """Its seed; None if it does not say."""
        return self.summary.get("seed")

    def number(self, key: str) -> float | None:
        """A number of the summary; None if it is missing."""
        value = self.summary.get(key)
        return float(value) if isinstance(value, int | float) else None


def collect(paths: Sequence[Path]) -> tuple[list[Run], list[tuple[Path, str]]]:
    """Finished runs below ``paths``, each once, and (path, reason) of those left out.

    Raises:
        RwpError: a path does not exist.
    """
    runs: list[Run] = []
    left_out: list[tuple[Path, str]] = []
    seen: set[Path] = set()
    for path in paths:
        if not path.is_dir():
            raise RwpError(f"{path}: there is no such folder; name run directories.")
        for folder in run_directories(path):
            if folder.resolve() in seen:
                continue
            seen.add(folder.resolve())
            found = _read(folder)
            if isinstance(found, Run):
                runs.append(found)
            else:
                left_out.append((folder, found))
    return runs, left_out


def _read(folder: Path) -> Run | str:
    """A run, or why it cannot be compared."""
    directory = RunDir(folder)
    summary = directory.read_summary()
    status = directory.read_status() or {}
    state = (summary or {}).get("state") or status.get("state")
    # A run that goes on after it was finished (more epochs) has an old summary.
    if status.get("state", "finished") != "finished":
        state = status["state"]
    if state != "finished":
        step, total = status.get("step"), status.get("total_steps")
        where = f" at step {step:,} of {total:,}" if step is not None and total else ""
        return f"{state}{where}" if state else "no summary"
    if summary is None:
        return "no summary"
    missing = [key for key in NEEDED if summary.get(key) is None]
    if missing:
        return f"its summary has no {', '.join(missing)}"
    points = {
        int(r["step"]): float(r["top1"])
        for r in directory.read_metrics("eval")
        if r.get("step") is not None and r.get("top1") is not None
    }
    return Run(folder, summary, tuple(sorted(points.items())), _read_settings(directory))


def _read_settings(directory: RunDir) -> dict[str, Any] | None:
    try:
        tree = yaml.safe_load(directory.config.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return tree if isinstance(tree, dict) and tree else None
