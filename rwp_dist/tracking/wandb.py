"""Weights & Biases, an optional sink: it may fail, be slow or be away, and training goes on.

A thread sends what ``metrics.jsonl`` has and W&B lacks. So W&B ends up with each record once,
whatever was killed in between, and the training loop never waits. Offline, nothing is written for
W&B: ``rwp-dist sync`` sends the run later, by the same code.
"""

import os
import threading
import time
from collections.abc import Mapping
from queue import SimpleQueue
from typing import Any, Literal

from rwp_dist.config.sources import VARIABLES, read_variables
from rwp_dist.config.tree import Settings
from rwp_dist.config.values import get_setting
from rwp_dist.process.webhook import Alert
from rwp_dist.tracking.artifacts import AT_THE_END
from rwp_dist.tracking.connection import (
    INIT_TIMEOUT_S,
    UPLOAD_TIMEOUT_S,
    Connection,
    has_login,
    quiet,
    reset,
)
from rwp_dist.tracking.projection import Tail
from rwp_dist.tracking.sink import RunInfo, Sink, first_line

RETRY_S = 60.0
"""Time between two attempts to reach W&B, in seconds."""

FINISH_TIMEOUT_S = 30.0
"""How long a run waits at its end for the rest to be uploaded, in seconds."""


class Wandb(Sink):
    """Has a thread send the records: methods return at once, ``close`` after a bounded time."""

    name = "W&B"
    optional = True

    def __init__(self, sender: "Sender") -> None:
        self._sender = sender
        sender.start()

    @classmethod
    def open(cls, run: RunInfo) -> "Wandb | None":
        """Begin to send this run; if W&B is off or offline, a line says how to send it later."""
        mode, why = choose_mode(run.settings)
        if mode != "off" and (used := variables_used(run.settings)):
            run.say(f"W&B: {used}")
        if mode == "offline":
            run.say(f"W&B is offline ({why}); send this run later with: {sync_command(run)}")
        return cls(Sender(run)) if mode == "online" else None

    @property
    def stop_requested(self) -> bool:
        """Whether the stop button of W&B's page was pressed (seen within about 15 s)."""
        return self._sender.stop.is_set()

    def log(self, kind: str, record: Mapping[str, Any]) -> None:
        """Have the thread read ``metrics.jsonl``, which has the record by now."""
        self._sender.woken.set()

    def alert(self, alert: Alert) -> None:
        self._sender.alerts.put(alert)
        self._sender.woken.set()

    def summarize(self, summary: Mapping[str, Any]) -> None:
        self._sender.summary = summary

    def close(self, state: str) -> None:
        """Send what is left, for ``FINISH_TIMEOUT_S`` at most, and end the run."""
        self._sender.end(state)


class Sender(threading.Thread):
    """Connects, however often that takes, and sends records until the run ends."""

    def __init__(self, run: RunInfo) -> None:
        super().__init__(name="W&B", daemon=True)
        self.woken, self.stop = threading.Event(), threading.Event()
        self.alerts: SimpleQueue[Alert] = SimpleQueue()
        self.summary: Mapping[str, Any] | None = None
        self._run = run
        large = AT_THE_END & set(run.settings.tracking.artifacts)
        self._finish_timeout_s = UPLOAD_TIMEOUT_S if large else FINISH_TIMEOUT_S
        self._state: str | None = None
        """How the run ended; None as long as it goes on."""
        self._troubled = self._done = False

    def end(self, state: str) -> None:
        """The run has ended; waits for the rest to be sent."""
        if self._state is not None:
            return
        self._state = state
        self.woken.set()
        self.join(INIT_TIMEOUT_S + self._finish_timeout_s)
        if not self._done:
            self._run.say(f"W&B lacks the end of this run; send it with: {sync_command(self._run)}")

    def run(self) -> None:
        """The thread: connects again after every trouble, which is said once."""
        while not self._done:
            try:
                self._send_all()
            except Exception as error:
                reset()
                if self._state is not None:
                    return
                self._say_trouble(error)
                self._wait_to_retry()

    def _send_all(self) -> None:
        """Connect, send records as they come, then the summary and the end."""
        run = self._run
        with run.run_dir.sending():  # a `rwp-dist sync` of this run may be at work
            asked = set(run.settings.tracking.artifacts)
            connection = Connection.connect(
                run.settings, run.run_dir, self._finish_timeout_s, self.stop
            )
            run.say(f"W&B: {connection.url}")
            connection.add_artifacts(run.run_dir, asked - AT_THE_END)
            tail = Tail(run.run_dir.metrics)
            while True:
                state = self._state  # before the last records are read
                connection.send(tail.read())
                while not self.alerts.empty():
                    connection.alert(self.alerts.get())
                if state is not None:
                    break
                self.woken.wait()
                self.woken.clear()
            if self.summary is not None:
                connection.summarize(self.summary)
                connection.add_artifacts(run.run_dir, asked & AT_THE_END)
            connection.close(state)
            self._done = True

    def _wait_to_retry(self) -> None:
        """Until some time has passed, or the run has ended: then there is one more attempt."""
        until = time.monotonic() + RETRY_S
        while self._state is None and (left := until - time.monotonic()) > 0:
            self.woken.wait(left)
            self.woken.clear()

    def _say_trouble(self, error: Exception) -> None:
        if not self._troubled:
            self._troubled = True
            self._run.say(
                f"W&B is away ({first_line(error)}); metrics.jsonl has every number, and W&B gets "
                f"what it lacks when it answers, or with: {sync_command(self._run)}"
            )


def sync_command(run: RunInfo) -> str:
    """What sends this run to W&B later."""
    return f"rwp-dist sync {run.run_dir.path}"


def variables_used(settings: Settings) -> str:
    """Which of W&B's variables name this run, and which do not, because a setting wins."""
    taken: list[str] = []
    beaten: list[str] = []
    for key, value in read_variables(os.environ):
        (taken if get_setting(settings, key) == value else beaten).append(key)
    parts = [f"{VARIABLES[key]} is {key}" for key in taken]
    parts += [f"{VARIABLES[key]} is not used, because {key} is set" for key in beaten]
    return ", ".join(parts)


def choose_mode(settings: Settings) -> tuple[Literal["online", "offline", "off"], str]:
    """What W&B does for these settings, and why it is not online."""
    mode = settings.tracking.wandb
    if mode == "off":
        return "off", "as set by tracking.wandb"
    site = quiet().settings.mode
    if mode != "auto":
        return mode, "as set by tracking.wandb"
    if site == "disabled":
        return "off", "WANDB_MODE is disabled"
    if site not in ("online", "run", "shared"):
        return "offline", f"WANDB_MODE is {site}"
    if has_login():
        return "online", ""
    return "offline", "no login found"
