"""Finished runs on disk, and what a comparison reads of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rwp_dist.base.errors import RwpError
from rwp_dist.base.files import read_json
from rwp_dist.record.directory import RunDir, run_directories
from rwp_dist.record.identity import Identity, brief, complete, identity_in

NUMBERS = ("steps", "samples", "device_seconds", "step_s", "top1")
NEEDED = ("label", "method", *NUMBERS)
"""Keys that the summary of every compared run must have."""

OTHER_NUMBERS = ("loss", "world_size", "wall_s")
RESULTS = ("top1", "loss")
"""Null stands for nan here, and 0 is possible."""

NAMES = ("seed", "session", "device", "model")
"""Keys whose values tell runs from each other: texts or whole numbers, or missing."""

FORMS = {"git": dict, "packages": dict, "gpus": list, "argv": list, "world_size": int}
"""Of what ``environment.json`` has."""


@dataclass(frozen=True)
class Run:
    """A finished run."""

    path: Path
    summary: dict[str, Any]
    """Contents of ``summary.json``."""

    evaluations: dict[int, dict[str, float]]
    """Numbers of the evaluations by step, which increases; each has a ``top1`` in percent."""

    measured: dict[str, float] = field(default_factory=dict)
    """What other commands measured of the finished network, on its own evaluation data; also on
    others, by names that begin with those of the data: ``imagenet-a@3f2a91.top1``."""

    measured_otherwise: bool = False
    """Whether ``evaluate`` measured it with other data or settings; these numbers are left out."""

    identity: Identity = field(default_factory=dict)
    """What it is; of a run of an earlier version, what its other files say; empty: nothing does."""

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

    @property
    def has_identity(self) -> bool:
        """Whether it wrote its identity itself, so that its data and code are known."""
        return isinstance(self.summary.get("identity"), dict)

    @property
    def changes(self) -> list[str]:
        """What changed between its attempts, a sentence each."""
        found = self.summary.get("changes")
        return [str(change) for change in found] if isinstance(found, list) else []

    def value(self, key: str) -> Any:
        """A number or text of the summary, or a number that was measured; None if there is none."""
        value = self.summary.get(key)
        value = self.measured.get(key) if value is None else value
        return value if isinstance(value, str) or is_number(value) else None

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
    folders: dict[Path, Path] = {}
    left_out: dict[Path, str] = {}
    for path in paths:
        if not path.is_dir():
            raise RwpError(f"{path}: there is no such folder", cure="name run directories")
        for folder in run_directories(path, left_out):
            folders.setdefault(folder.resolve(), folder)
    runs = []
    for folder in folders.values():
        try:
            runs.append(read_run(folder))
        except (OSError, ValueError) as error:
            left_out[folder] = getattr(error, "strerror", None) or str(error)
    return runs, left_out


def read_run(folder: Path) -> Run:
    """The run in a directory.

    Raises:
        ValueError: it cannot be compared; its text says why.
        OSError: a file cannot be read.
    """
    directory = RunDir(folder)
    status = directory.read_status() or {}
    summary = _summary(directory, status)
    _check(summary)
    environment = {
        key: value
        for key, value in (directory.read_environment() or {}).items()
        if key not in FORMS or isinstance(value, FORMS[key])
    }
    evaluations = {}
    for record in directory.read_metrics("eval"):
        numbers = {key: value for key, value in record.items() if is_number(value)}
        if numbers.get("step", 0) > 0 and 0 <= numbers.get("top1", -1) <= 100:
            evaluations[int(numbers["step"])] = numbers
    known = summary.get("identity")
    known = known if isinstance(known, dict) else identity_in(directory) or {}
    measured: dict[str, float] = {}
    otherwise = False
    for content in directory.read_measurements():
        subject, found = content.get("subject"), content.get("numbers")
        if isinstance(subject, dict) and _is_other(subject, known):
            otherwise = True
        elif isinstance(found, dict):
            measured |= found
    return Run(
        folder,
        summary,
        dict(sorted(evaluations.items())),
        measured,
        otherwise,
        brief(complete(known)),
        environment,
    )


def _is_other(subject: dict[str, Any], identity: Identity) -> bool:
    """Whether an evaluation had other data or settings than its run (``record.subject_of``).

    Numbers on another data set that was asked for have its name.
    """
    data, own = subject.get("data"), identity.get("data.val.id")
    other_data = isinstance(data, str) and isinstance(own, str) and not data.startswith(own)
    more = subject.keys() - {"checkpoint", "crc32", "data"}
    return bool(more - {"other_data"}) or (other_data and not more)


def is_number(value: Any) -> bool:
    """Whether it is a number that one can calculate with."""
    if not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False


def _summary(directory: RunDir, status: dict[str, Any]) -> dict[str, Any]:
    """Contents of the summary of a run that is finished."""
    try:
        summary = read_json(directory.summary)
        why = None if isinstance(summary, dict) else "its summary.json is no JSON object"
    except FileNotFoundError:
        summary, why = None, "no summary"
    except OSError as error:
        summary, why = None, f"its summary.json cannot be read: {error.strerror or error}"
    except ValueError:
        summary, why = None, "its summary.json is no JSON, or not whole"
    # A finished run that now goes on with more epochs has an old summary.
    states = (status.get("state"), None if why else summary.get("state"))
    if state := next((state for state in states if state not in (None, "finished")), None):
        step, total = status.get("step"), status.get("total_steps")
        known = is_number(step) and is_number(total) and total
        raise ValueError(f"{state} at step {step:,} of {total:,}" if known else str(state))
    if why:
        raise ValueError(why)
    return dict(summary)


def _check(summary: dict[str, Any]) -> None:
    """Refuse a summary that has not what a comparison needs.

    Raises:
        ValueError: with what is wrong.
    """
    given = {key for key in summary if summary[key] is not None or key in RESULTS}
    if missing := [key for key in NEEDED if key not in given]:
        raise ValueError(f"its summary has no {', '.join(missing)}")
    for key in ("label", "method"):
        if not isinstance(summary[key], str):
            raise ValueError(f"its {key} is no text")
    for key in (key for key in (*NUMBERS, *OTHER_NUMBERS) if key in given):
        value = summary[key]
        if not is_number(value) or isinstance(value, bool):
            raise ValueError(f"its {key} is not a number")
        if value < 0 or (value == 0 and key not in RESULTS) or (key == "top1" and value > 100):
            raise ValueError(f"its {key} cannot be {value:g}")
    for key in NAMES:
        if not isinstance(summary.get(key), str | int | None):
            raise ValueError(f"its {key} is neither a text nor a whole number")
