"""A doctor as a person starts it: a process of its own, with limits and a PATH of the test's."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs" / "digits.yaml")


def doctor(
    *arguments: str, before: Callable[[], None] | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """``rwp-dist doctor ARGUMENTS``; ``before`` is called in the new process."""
    return subprocess.run(
        [sys.executable, "-m", "rwp_dist", "doctor", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | environment,
        preexec_fn=before,
        timeout=120,
    )


def findings(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    """Findings of a ``--json`` report by name."""
    return {f["name"]: f for f in json.loads(done.stdout)["findings"]}


def program(folder: Path, name: str, text: str) -> None:
    """An executable shell script."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
