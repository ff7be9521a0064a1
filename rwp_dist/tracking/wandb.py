"""Weights & Biases, an optional sink: it may fail, be slow or be away, and training goes on.

A thread sends what ``metrics.jsonl`` has and W&B lacks. So W&B ends up with each record once,
whatever was killed in between, and the training loop never waits. Offline, nothing is written for
W&B: ``rwp-dist sync`` sends the run later, by the same code.
"""

import os
import shlex
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Literal

from rwp_dist.base.errors import RunDirError
from rwp_dist.config.sources import VARIABLES, read_variables
from rwp_dist.config.tree import Settings
from rwp_dist.config.values import get_setting
from rwp_dist.process.webhook import Alert
from rwp_dist.tracking.artifacts import OF_A_FINISHED_RUN
from rwp_dist.tracking.connection import (
    ARTIFACT_TIMEOUT_S,
    INIT_TIMEOUT_S,
    Connection,
    has_login,
    quiet,
    reset,
    why_of,
)
from rwp_dist.tracking.projection import Tail
from rwp_dist.tracking.sink import RunInfo, Sink

RETRY_S = 60.0
"""Time between two attempts to reach W&B, in seconds."""

CHECK_S = 300.0
"""Time between two looks at whether W&B shows what it was sent, in seconds."""

FINISH_TIMEOUT_S = 30.0
"""How long a run waits at its end for the rest to be uploaded, in seconds."""


class Wandb(Sink):
    """A thread sends the records, so methods return at once, and ``close`` after a bounded time."""

    name = "W&B"
    optional = True

    def __init__(self, sender: "Sender") -> None:
        self._sender = sender
        sender.start()

    @classmethod
    def open(cls, run: RunInfo) -> "Wandb | None":
        """Begin to send this run; if W&B is off or offline, a line says how to send it later."""
        used = variables_used(run.settings)
        mode, why = choose_mode(run.settings)
        if used and mode != "off":
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
        self._sender.alerts.append(alert)
        self._sender.woken.set()

    def summarize(self, summary: Mapping[str, Any]) -> None:
        self._sender.summary = summary

    def close(self, state: str) -> None:
        """Send what is left, for a bounded time, and end the run in W&B."""
        self._sender.end(state)


class Sender(threading.Thread):
    """Connects, however often that takes, and sends records until the run ends."""

    _unreachable = threading.Event()
    """Whether the last attempt of this process failed: then a sweep's next runs do not wait."""

    def __init__(self, run: RunInfo) -> None:
        super().__init__(name="W&B", daemon=True)
        self.woken, self.stop = threading.Event(), threading.Event()
        self.alerts: deque[Alert] = deque()
        self.summary: Mapping[str, Any] | None = None
        self._run = run
        self._state: str | None = None
        """How the run ended; None as long as it goes on."""
        self._troubled = self._connected = self._done = False

    def end(self, state: str) -> None:
        """The run has ended; waits for the rest to be sent."""
        if self._state is not None:
            return
        self._state = state
        self.woken.set()
        wait_s = INIT_TIMEOUT_S + FINISH_TIMEOUT_S
        if self._unreachable.is_set() and not self._connected and not self._troubled:
            wait_s = 1.0
        elif self.summary is not None and self._large_files():
            wait_s += ARTIFACT_TIMEOUT_S * len(self._large_files())
        self.join(min(wait_s, 3.0))
        if self.is_alive() and wait_s > 3.0:
            self._run.say(f"waiting for W&B, {wait_s - 3.0:.0f} s at most")
            self.join(wait_s - 3.0)
        if not self._done:
            command = sync_command(self._run)
            self._run.say(f"W&B lacks records of this run; send them with: {command}")

    def run(self) -> None:
        """The thread: connects again after every trouble, which is said once."""
        while True:
            try:
                self._done = self._send_all()
                return
            except Exception as error:
                if not isinstance(error, RunDirError):  # that says that a sync is at work
                    self._unreachable.set()
                    reset()
                self._connected = False
                if self._state is not None:
                    return
                self._say_trouble(error)
                self._wait_to_retry()

    def _send_all(self) -> bool:
        """Connect, send records as they come, then the summary and the end.

        Returns:
            Whether W&B shows all of it.
        """
        run = self._run
        with run.run_dir.sending():
            connection = Connection.connect(run.settings, run.run_dir, FINISH_TIMEOUT_S, self.stop)
            self._connected = True
            self._unreachable.clear()
            run.say(f"W&B: {connection.url}")
            connection.add_artifacts(run.run_dir, self._asked() - OF_A_FINISHED_RUN)
            state = self._send_records(connection)
            if self.summary is not None:
                connection.summarize(self.summary)
                connection.add_artifacts(run.run_dir, self._large_files())
            connection.close(state)
            for pause_s in (0, 1, 2, 4, 8):  # the server may show rows late
                time.sleep(pause_s)
                if not connection.lacks_rows():
                    return True
        return False

    def _send_records(self, connection: Connection) -> str:
        """Send records and alerts until the run has ended; returns how.

        Raises:
            Exception: W&B has lost what it was sent. Its client says nothing when it gives up.
        """
        tail = Tail(self._run.run_dir.metrics)
        checked, next_check = connection.last_row, time.monotonic() + CHECK_S
        while True:
            state = self._state  # before the last records are read
            connection.send(tail.read())
            while self.alerts:
                connection.alert(self.alerts[0])
                self.alerts.popleft()
            if state is not None:
                return state
            if time.monotonic() > next_check:
                if connection.lacks_rows(until=checked):
                    raise ConnectionError("W&B does not show what it was sent")
                checked, next_check = connection.last_row, time.monotonic() + CHECK_S
            self.woken.wait()
            self.woken.clear()

    def _asked(self) -> set[str]:
        return set(self._run.settings.tracking.artifacts)

    def _large_files(self) -> set[str]:
        return self._asked() & OF_A_FINISHED_RUN

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
                f"W&B is away ({why_of(error)}); metrics.jsonl has every number, and W&B gets "
                f"what it lacks when it answers, or with: {sync_command(self._run)}"
            )


def sync_command(run: RunInfo) -> str:
    """What sends this run to W&B later."""
    return f"rwp-dist sync {shlex.quote(str(run.run_dir.path))}"


def variables_used(settings: Settings) -> str:
    """Which of W&B's variables name this run, and which do not, because a setting wins."""
    taken: list[str] = []
    beaten: list[str] = []
    for key, value in read_variables(os.environ):
        (taken if get_setting(settings, key) == value else beaten).append(key)
    parts = [f"{key}={shown_value(settings, key)} from {VARIABLES[key]}" for key in taken]
    parts += [f"{VARIABLES[key]} is not used, because {key} is set" for key in beaten]
    return ", ".join(parts)


def shown_value(settings: Settings, key: str) -> str:
    """A value as one writes it on the command line."""
    value = get_setting(settings, key)
    return ",".join(value) if isinstance(value, list) else str(value)


def choose_mode(settings: Settings) -> tuple[Literal["online", "offline", "off"], str]:
    """What W&B does for these settings, and why it is not online."""
    mode = settings.tracking.wandb
    if mode == "off":
        return "off", "as set by tracking.wandb"
    if mode == "online":
        os.environ.pop("WANDB_MODE", None)  # with which no login is found
    site = quiet().settings.mode
    if mode == "offline":
        return mode, "as set by tracking.wandb"
    if mode == "online":
        return ("online", "") if has_login() else ("offline", no_login())
    if site == "disabled":
        return "off", "WANDB_MODE is disabled"
    if site not in ("online", "run", "shared"):
        return "offline", f"WANDB_MODE is {site}"
    if has_login():
        return "online", ""
    return "offline", no_login()


def no_login() -> str:
    """Why W&B finds no login."""
    if os.environ.get("WANDB_API_KEY"):
        return "WANDB_API_KEY is no key of W&B's"
    return "no login found"
