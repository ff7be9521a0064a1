"""Sees when a run needs a person, and tells: it diverges, stands still, meets many bad samples or
cannot save."""

from collections.abc import Mapping
from typing import Any

import torch.distributed as dist

from rwp_dist.base.errors import CheckpointWriteError
from rwp_dist.config import Settings
from rwp_dist.process.silence import Silence
from rwp_dist.process.webhook import Alert, post_alone
from rwp_dist.record.directory import RunDir
from rwp_dist.run.losses import build_loss
from rwp_dist.tracking import Tracker, alerts


class Watch:
    """Watches one attempt, from ``__enter__`` to ``__exit__``. Each kind of alert is told once."""

    def __init__(
        self, settings: Settings, run_dir: RunDir, tracker: Tracker, step: int, skipped: int
    ) -> None:
        """``step``: updates done so far. ``skipped``: those of them that were skipped."""
        self._settings, self._run_dir, self._tracker = settings, run_dir, tracker
        self._done = step
        self._said: set[str] = set()
        guess = build_loss(settings).guess(settings.model.num_classes)
        self._divergence = alerts.Divergence(
            guess, settings.method.name, step, skipped, scaled=settings.precision == "fp16"
        )
        watched = "silent_rank" in settings.tracking.alerts
        self._silence = Silence(
            run_dir.logs / "silent",
            dist.get_rank(),
            dist.get_world_size(),
            settings.tracking.silent_s if watched else float("inf"),
            self._tell_of_silence,
        )

    def at(self, step: int, what: int) -> None:
        """Say what this rank begins now, of a step from 0 (``process/silence.py``). It is cheap."""
        self._done = step
        self._silence.at(step, what)

    def look(self, record: Mapping[str, Any]) -> bool:
        """Look at a record of training; returns whether it is one of a run that is lost."""
        self._tell(self._divergence.look(record))
        return self._divergence.is_lasting

    def bad_samples(self, total: int) -> None:
        """So many samples could not be read, since the run began."""
        self._tell(alerts.bad_samples(total, self._settings.data.max_bad_samples))

    def missed_checkpoint(self, error: CheckpointWriteError, done: int) -> None:
        """The checkpoint after ``done`` updates could not be written."""
        saved = self._run_dir.saved_step()
        self._tracker.alert(alerts.missed_checkpoint(str(error), done, saved))

    def _tell(self, alert: Alert | None) -> None:
        """Print it, and tell a person who is elsewhere."""
        if alert is not None and alert.kind not in self._said:
            self._said.add(alert.kind)
            self._tracker.say(f"{alert.title}: {alert.text}")
            self._tracker.alert(alert)

    def _tell_of_silence(self, sentence: str) -> None:
        alert = alerts.silent_rank(sentence, self._settings.tracking.silent_s)
        if dist.get_rank() == 0:
            self._tell(alert)
        else:  # rank 0 itself is silent
            post_alone(alert, str(self._settings.run.name), self._done, print)

    def __enter__(self) -> "Watch":
        self._silence.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._silence.__exit__(*exc)
