"""What git says about a checkout."""

import subprocess
from pathlib import Path
from typing import Any


def git_state(source: Path) -> dict[str, Any] | None:
    """``{"commit", "dirty"}`` of a checkout; None if ``source`` is not the top of one.

    Only the top counts: a package installed below some other checkout is not part of it.
    """
    top = _text(source, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != source.resolve():
        return None
    changes = _text(source, "status", "--porcelain")
    return {
        "commit": _text(source, "rev-parse", "--verify", "--quiet", "HEAD"),
        "dirty": None if changes is None else bool(changes),
    }


def git_output(folder: Path, *command: str) -> bytes | None:
    """What a git command prints, byte for byte; None if it fails or git is missing."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *command], capture_output=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _text(folder: Path, *command: str) -> str | None:
    printed = git_output(folder, *command)
    return None if printed is None else printed.decode(errors="replace").strip()
