"""``rwp-dist doctor`` as a person starts it, with the test's limits and PATH."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rwp_dist.config import load_settings
from rwp_dist.doctor.finding import Check, Finding, run_check
from rwp_dist.doctor.machine import Machine
from support.until import HANG_S

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
        timeout=HANG_S,
    )


def findings(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    """Findings of a ``--json`` report by name."""
    return {f["name"]: f for f in json.loads(done.stdout)["findings"]}


def machine(*overrides: str) -> Machine:
    """This machine and a run with these settings, on the CPU."""
    return Machine(load_settings(None, ["run.device=cpu", *overrides]))


def look(check: Callable[..., Any], machine: Machine) -> list[Finding]:
    """Findings of one check."""
    return run_check(Check("group", "name", check), machine)
