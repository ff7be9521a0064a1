"""How often, and how long, to try again."""

import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from rwp_dist.base.errors import DataError
from rwp_dist.base.urls import shown, shown_text

T = TypeVar("T")

FAILURES_BEFORE_NOTICE = 3
"""After this many failures a line on stderr says what the process waits for, once per URL."""


class OutOfReachError(DataError):
    """A source that this machine cannot read now; another one, or a later attempt, may."""


class NoAttemptsLeftError(OutOfReachError):
    """A source that failed at every attempt; others at the same place would fail too."""


class TransientError(Exception):
    """A failure that may be gone at the next attempt; the message is the cause alone.

    ``retry_after_s``: how long the server asks to wait, in seconds.
    """

    def __init__(self, cause: str, retry_after_s: float = 0.0) -> None:
        super().__init__(cause)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Patience:
    """How long a source may misbehave before a run stops."""

    retries: int = 8
    """Attempts after the first."""
    backoff_s: float = 0.5
    """Longest wait before the first retry; doubled for each further one."""
    max_backoff_s: float = 30.0
    """Longest wait before any retry."""
    stall_s: float = 30.0
    """Longest time without a byte, and longest time to connect."""

    def wait_s(self, failures: int, chance: float) -> float:
        """Seconds to wait after ``failures`` failures; ``chance`` is uniform in [0, 1).

        Full jitter: nodes that failed together do not come back together.
        """
        return chance * min(self.max_backoff_s, self.backoff_s * 2.0 ** min(failures - 1, 60))


class Attempts:
    """The attempts left for one URL, shared by everything that can go wrong with it."""

    def __init__(self, url: str, patience: Patience) -> None:
        self.url = url
        self.patience = patience
        self.failures = 0
        # Not the global generator: training must not depend on the network.
        self._random = random.SystemRandom()

    def retry(self, action: Callable[[], T]) -> T:
        """Call ``action`` until it succeeds; after each ``TransientError`` wait and try again.

        Raises:
            DataError: no attempt is left.
        """
        while True:
            try:
                return action()
            except TransientError as error:
                self.failed(str(error), error.retry_after_s)

    def failed(self, cause: str, retry_after_s: float = 0.0) -> None:
        """Count a failure and wait for the next attempt.

        Raises:
            DataError: no attempt is left.
        """
        cause = shown_text(" ".join(cause.split()))
        self.failures += 1
        left = self.patience.retries - self.failures + 1
        if left < 1:
            raise NoAttemptsLeftError(
                f"{shown(self.url)}: cannot be read after {self.failures} attempts, the last one: "
                f"{cause}",
                cure="check the source; data.retries lets training try longer",
            )
        if self.failures == FAILURES_BEFORE_NOTICE:
            notice = f"{shown(self.url)}: {cause}; trying again, up to {left} more times."
            print(notice, file=sys.stderr, flush=True)
        wait_s = self.patience.wait_s(self.failures, self._random.random())
        time.sleep(max(wait_s, min(retry_after_s, self.patience.max_backoff_s)))
