"""The tracker: the training loop sends it each record once, and it sends the record to all sinks.

Only rank 0 has sinks. The trackers of other ranks have the same methods, which do nothing.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from types import TracebackType
from typing import Any

from rwp_dist.base.errors import Interrupted, RwpError
from rwp_dist.config.tree import Settings
from rwp_dist.process import torchrun
from rwp_dist.process.webhook import Alert
from rwp_dist.record.directory import RunDir
from rwp_dist.tracking.console import Console
from rwp_dist.tracking.jsonl import JsonLines
from rwp_dist.tracking.sink import RunInfo, Sink, first_line
from rwp_dist.tracking.tensorboard import TensorBoard
from rwp_dist.tracking.trackio import Trackio
from rwp_dist.tracking.wandb import Wandb
from rwp_dist.tracking.webhook import WebhookSink

SINKS: tuple[type[Sink], ...] = (Console, JsonLines, TensorBoard, Trackio, Wandb, WebhookSink)
"""Every sink there is, in the order in which they are opened. Each decides by the settings whether
it takes part. The console comes first, because the others say their lines on it; trackio and W&B
read what metrics.jsonl has, and W&B's thread prints when trackio has stopped to hold that back."""


class Tracker:
    """Sends records to sinks.

    An optional sink (such as W&B) that raises is dropped with one line for the user, and training
    goes on.
    """

    def __init__(self, sinks: Sequence[Sink] = (), alerts: Collection[str] = ()) -> None:
        """``alerts``: kinds of alerts that sinks get."""
        self._opened = list(sinks)
        self._active = list(sinks)
        self._alerts = set(alerts)

    def open(self, kind: type[Sink], run: RunInfo) -> None:
        """Add a sink, if the settings ask for it.

        Raises:
            ConfigError: the settings ask for what cannot be had.
        """
        try:
            sink = kind.open(run)
        except Exception as error:
            if not kind.optional or isinstance(error, RwpError):
                raise
            self.say(f"{kind.name} is off ({first_line(error)}); metrics.jsonl has every number.")
            return
        if sink is not None:
            self._opened.append(sink)
            self._active.append(sink)

    @property
    def stop_requested(self) -> bool:
        """Whether someone pressed a sink's stop button; the run treats it like a signal."""
        return any(sink.stop_requested for sink in self._opened)

    def log(self, kind: str, record: Mapping[str, Any]) -> None:
        """Write a record; ``columns.py`` has the kinds and their columns."""
        self._each(lambda sink: sink.log(kind, record))

    def advance(self, step: int) -> None:
        """Show that ``step`` updates are done; cheap enough for every step."""
        self._each(lambda sink: sink.advance(step))

    def say(self, text: str) -> None:
        """Print a line without breaking the progress bar."""
        self._each(lambda sink: sink.say(text))

    def alert(self, alert: Alert) -> None:
        """Tell a person who is elsewhere, if ``tracking.alerts`` asks for it; once of each kind."""
        if alert.kind in self._alerts:
            self._alerts.remove(alert.kind)
            self._each(lambda sink: sink.alert(alert))

    def summarize(self, summary: Mapping[str, Any]) -> None:
        """Write the final numbers, the contents of ``summary.json``."""
        self._each(lambda sink: sink.summarize(summary))

    def close(self, state: str) -> None:
        """Close all sinks; a second call does nothing.

        Args:
            state: how the attempt ended: "finished", "interrupted" or "failed".
        """
        self._each(lambda sink: sink.close(state))
        self._active.clear()

    def _each(self, call: Callable[[Sink], None]) -> None:
        for sink in tuple(self._active):
            try:
                call(sink)
            except Exception as error:
                if not sink.optional:
                    raise
                self._active.remove(sink)
                self.say(
                    f"{sink.name} is off from here ({first_line(error)}); metrics.jsonl goes on."
                )

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, Interrupted | KeyboardInterrupt):
            self.close("interrupted")
        else:
            self.close("finished" if error is None else "failed")


def open_tracker(
    settings: Settings,
    run_dir: RunDir,
    *,
    total_steps: int,
    first_step: int,
    position: tuple[int, int] | None = None,
) -> Tracker:
    """The tracker of this rank. Rank 0 gets all sinks that the settings ask for, others none.

    Args:
        settings: the resolved settings.
        run_dir: where files go.
        total_steps: updates of the whole run.
        first_step: updates that are done already. Records of later steps are removed from
            ``metrics.jsonl``, because they are about to be written again.
        position: which of how many runs this is, from 1.

    Raises:
        ConfigError: the settings ask for a sink that cannot be had.
    """
    import torch.distributed as dist  # here, so that importing a sink imports no torch

    tracker = Tracker(alerts=settings.tracking.alerts)
    rank = dist.get_rank() if dist.is_initialized() else torchrun.rank()
    if rank == 0:
        run_dir.path.mkdir(parents=True, exist_ok=True)
        run = RunInfo(settings, run_dir, total_steps, first_step, position, tracker.say)
        for kind in SINKS:
            tracker.open(kind, run)
    return tracker
