"""What the launcher tells a person: the run's own process is dead by then.

``rwp_dist/tracking/alerts.py`` has what a run tells itself.
"""

import subprocess
import sys
from collections.abc import Collection
from contextlib import suppress

from rwp_dist.base.errors import RwpError
from rwp_dist.config import load_settings
from rwp_dist.process.webhook import Alert, post_alone
from rwp_dist.record.directory import RunDir

WANDB_TIMEOUT_S = 60.0
"""How long the alert in W&B may take, in seconds."""


def gave_up(run: RunDir, *why: str, kinds: Collection[str] | None = None) -> None:
    """Tell that a run is not finished and nobody starts it again.

    Args:
        run: its directory, or the folder of a sweep.
        why: lines for a person; of a long log the last ones.
        kinds: alerts that are asked for; None: as the run's ``config.yaml`` says.
    """
    status = run.read_status() or {}
    message = str(status.get("message") or "") if status.get("state") == "failed" else ""
    known = "\n".join(why)
    lines = [known[-1500:], *([message] if message and message not in known else [])]
    if run.exists():  # no sweep
        lines.append(f"Saved up to step {run.saved_step():,}.")
    text = "\n".join([*lines, f"Directory: {run.path}"])
    _post(run, Alert("gave_up", "Given up", text, "ERROR"), kinds)


def died_unsaved(run: RunDir, who: str, kinds: Collection[str] | None = None) -> None:
    """Tell that an attempt died without a word, if updates are lost with it.

    One that failed with a message had its checkpoints when they were due, or has told otherwise.

    Args:
        run: its directory.
        who: which attempt.
        kinds: see ``gave_up``.
    """
    status = run.read_status() or {}
    done, saved = int(status.get("step") or 0), run.saved_step()
    if status.get("state") != "running" or done <= saved:
        return
    text = (
        f"{who} was killed at step {done:,} or later, without a checkpoint: {done - saved:,} "
        f"updates since step {saved:,} are lost."
    )
    _post(run, Alert("missed_checkpoint", "A checkpoint is missing", text), kinds)


def _post(run: RunDir, alert: Alert, kinds: Collection[str] | None) -> None:
    name = run.path.name
    try:
        if kinds is None:
            settings = load_settings(run.config)
            kinds, name = settings.tracking.alerts, settings.run.name or name
    except RwpError:  # no run has begun here: its settings may be what is wrong
        kinds = (alert.kind,)
    if alert.kind in kinds:
        step = (run.read_status() or {}).get("step")
        post_alone(alert, name, step, lambda text: print(text, file=sys.stderr))
        if run.is_in_wandb():
            _tell_wandb(run, alert)


def _tell_wandb(run: RunDir, alert: Alert) -> None:
    """In a process of its own, because the launcher imports no W&B."""
    told = [str(run.path), alert.kind, alert.title, alert.text, alert.level]
    with suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            [sys.executable, "-m", "rwp_dist.tracking.tell", *told],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=WANDB_TIMEOUT_S,
            check=False,
        )
