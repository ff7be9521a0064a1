"""Alerts for a person, and the webhook that takes them: a chat's, or a server of your own.

Its address comes from ``RWP_WEBHOOK`` alone, because it often holds a token. Nothing here prints
it. Imports no torch: the launcher alerts as well.
"""

import json
import os
import queue
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal
from urllib import error, request
from urllib.parse import urlsplit

from rwp_dist.base import clock
from rwp_dist.base.errors import ConfigError
from rwp_dist.process import torchrun

VARIABLE = "RWP_WEBHOOK"
"""Environment variable with the address."""

TIMEOUT_S = 10.0
"""How long an attempt to post waits for the server, in seconds."""

PAUSES_S = (1.0, 5.0)
"""Pauses before a second and a third attempt, in seconds."""

CLOSE_S = 15.0
"""How long the end of a process waits for alerts that are on their way, in seconds."""


@dataclass(frozen=True)
class Alert:
    """What a person may want to be woken for."""

    kind: str
    """One of those that ``tracking.alerts`` lists."""

    title: str
    """Some words."""

    text: str
    """Whole sentences, with the cure if there is one."""

    level: Literal["INFO", "WARN", "ERROR"] = "WARN"
    """As W&B has them."""


def document(alert: Alert, run: str, step: int | None) -> dict[str, Any]:
    """What is posted. Slack and Mattermost show its ``text``; the rest is for programs.

    Args:
        alert: what happened.
        run: name of the run.
        step: updates done; None: not known.
    """
    return asdict(alert) | {
        "text": f"{run}: {alert.title}. {alert.text}",
        "run": run,
        "step": step,
        "host": torchrun.node_name(),
        "time": clock.now(),
    }


class Webhook:
    """Posts documents from a thread of its own: nobody waits for the server before ``close``."""

    def __init__(self, url: str, say: Callable[[str], None]) -> None:
        """
        Args:
            url: where to post.
            say: prints a line, from that thread: what could not be posted, and why.

        Raises:
            ConfigError: the URL is none of http or https.
        """
        try:
            parts = urlsplit(url)
            fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
            headers = {"Content-Type": "application/json", "User-Agent": "rwp-dist"}
            self._request = request.Request(url, headers=headers)
        except ValueError:
            fits = False
        if not fits or any(ord(character) <= 32 for character in url):
            raise ConfigError(
                "its value is no address of a webhook",  # which may be a secret all the same
                key=VARIABLE,
                cure="give it one that begins with https:// or http://, or unset it",
            )
        # Made here, not at the first alert: loading certificates takes some milliseconds.
        https = request.HTTPSHandler(context=ssl.create_default_context())
        self._opener = request.build_opener(https, _NoRedirects())
        self._say = say
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="webhook", daemon=True)
        self._thread.start()

    @classmethod
    def from_environment(cls, say: Callable[[str], None]) -> "Webhook | None":
        """The webhook that ``RWP_WEBHOOK`` names; None if it is not set or empty.

        Raises:
            ConfigError: it holds something else.
        """
        url = os.environ.get(VARIABLE, "").strip()
        return cls(url, say) if url else None

    def post(self, content: Mapping[str, Any]) -> None:
        """Have it posted soon."""
        self._queue.put(json.dumps(content).encode())

    def close(self) -> None:
        """Wait until all is posted, but not longer than ``CLOSE_S``."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            self._say("The webhook has not answered yet; an alert may be lost.")

    def _work(self) -> None:
        while (body := self._queue.get()) is not None:
            why = self._try(body)
            for pause_s in PAUSES_S:
                if not why:
                    break
                # At the end of the process the pauses are over, not the attempts.
                self._closing.wait(pause_s)
                why = self._try(body)
            if why:
                self._say(f"The webhook ({VARIABLE}) has not taken an alert: {why}.")

    def _try(self, body: bytes) -> str:
        """Post once; why it failed, without the address, or nothing."""
        try:
            with self._opener.open(self._request, body, TIMEOUT_S):
                return ""
        except error.HTTPError as answer:
            answer.close()
            return f"HTTP status {answer.code}"
        except Exception as other:
            why = getattr(other, "reason", other)
            return str(getattr(why, "strerror", None) or type(why).__name__)


class _NoRedirects(request.HTTPRedirectHandler):
    """Makes a redirect an error: followed, it would become a request that posts nothing."""

    def redirect_request(self, *_: Any) -> None:
        return None


def post_alone(alert: Alert, run: str, step: int | None, say: Callable[[str], None]) -> None:
    """Post one alert and wait for it, ``CLOSE_S`` at most; without a webhook, do nothing.

    For a process that has no tracker. Nothing is raised.
    """
    try:
        webhook = Webhook.from_environment(say)
    except ConfigError as wrong:
        say(str(wrong))
        return
    if webhook is not None:
        webhook.post(document(alert, run, step))
        webhook.close()
