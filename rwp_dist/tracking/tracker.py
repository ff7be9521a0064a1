"""The tracker that the training loop talks to: one record in, three places out.

``metrics.jsonl`` is the record; the console and W&B show the same numbers.
"""

import json
import time
from types import TracebackType
from typing import Any, TextIO

from rwp_dist.base.errors import Interrupted
from rwp_dist.config.tree import Settings
from rwp_dist.record.directory import RunDir, finite
from rwp_dist.tracking.console import Console, duration, head_line
from rwp_dist.tracking.wandb import WandbRun, open_wandb


class Tracker:
    """What ranks other than 0 get: the same methods, which do nothing."""

    @property
    def stop_requested(self) -> bool:
        """Whether someone pressed W&B's stop button; to be treated like a signal."""
        return False

    def log_train(self, record: dict[str, Any]) -> None:
        """Write down a train record.

        Args:
            record: step, total_steps, epoch, loss, top1 (percent or None), lr, sigma, step_s,
                images_per_s, data_wait_s, data_wait_share, bytes_per_s, cache_hits (a share, or
                None without a cache), bad_samples, perturb_s, perturb_share, noise_s
                (drawing ahead), noise_hidden (share of it that no step waited for, or None),
                noise_bytes (the buffer it is drawn into), memory_bytes,
                skipped_steps, adaptation (mean of sqrt(1 + eta F), or None),
                eta_s (seconds left). Shares lie in [0, 1].
        """

    def log_eval(self, record: dict[str, Any]) -> None:
        """Write down an evaluation.

        Args:
            record: step, epoch, loss, top1, top5 (percent), num_samples, bad_samples.
        """

    def advance(self, step: int) -> None:
        """Tick the progress bar; cheap enough for every step."""

    def say(self, text: str) -> None:
        """Print a line that does not break the progress bar."""

    def finish(self, summary: dict[str, Any]) -> None:
        """Tell the final numbers (the contents of ``summary.json``)."""

    def close(self, state: str) -> None:
        """Release everything; ``state`` is how the attempt ended. A second call does nothing."""

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


class RunTracker(Tracker):
    """What rank 0 gets."""

    def __init__(self, run_dir: RunDir, console: Console, wandb: WandbRun | None) -> None:
        self._run_dir = run_dir
        self._console = console
        self._wandb = wandb
        self._file: TextIO | None = run_dir.metrics.open("a", encoding="utf-8")

    @property
    def stop_requested(self) -> bool:
        """Whether someone pressed W&B's stop button."""
        return self._wandb is not None and self._wandb.stop_requested

    def log_train(self, record: dict[str, Any]) -> None:
        """Write down a train record."""
        self._write("train", record)
        self._console.train(record)

    def log_eval(self, record: dict[str, Any]) -> None:
        """Write down an evaluation."""
        self._write("eval", record)
        self._console.eval(record)

    def advance(self, step: int) -> None:
        """Tick the progress bar."""
        self._console.advance(step)

    def say(self, text: str) -> None:
        """Print a line that does not break the progress bar."""
        self._console.say(text)

    def finish(self, summary: dict[str, Any]) -> None:
        """Tell the final numbers."""
        if self._wandb is not None:
            self._wandb.summarize(summary)
        parts = [str(summary.get("label") or summary.get("name") or self._run_dir.path.name)]
        if summary.get("top1") is not None:
            parts.append(f"top-1 {summary['top1']:.2f} %")
        if summary.get("steps") is not None:
            parts.append(f"{summary['steps']:,} updates")
        if summary.get("train_s") is not None:
            parts.append(f"{duration(summary['train_s'])} of training")
        self._console.close()
        self._console.say(f"finished {', '.join(parts)}; all of it is in {self._run_dir.path}")

    def close(self, state: str) -> None:
        """Release everything."""
        if self._file is None:
            return
        self._file.close()
        self._file = None
        self._console.close()
        if self._wandb is not None:
            self._wandb.close(state)

    def _write(self, kind: str, record: dict[str, Any]) -> None:
        assert self._file is not None, "the tracker is closed"
        line = json.dumps(finite({"kind": kind, "time": time.time(), **record}))
        self._file.write(f"{line}\n")
        self._file.flush()
        if self._wandb is not None:
            self._wandb.log(kind, record)


def open_tracker(
    settings: Settings,
    run_dir: RunDir,
    *,
    total_steps: int,
    first_step: int,
    is_main: bool,
    title: str | None = None,
    position: tuple[int, int] | None = None,
) -> Tracker:
    """A tracker for this rank; only the main one writes anything.

    Args:
        settings: the resolved settings.
        run_dir: where ``metrics.jsonl`` and W&B's files go.
        total_steps: updates of the whole run.
        first_step: updates already done; records of later steps are cut out of
            ``metrics.jsonl``, because they are about to be written again.
        is_main: whether this is rank 0.
        title: the line that a run begins with; None: its label and its seed.
        position: which of how many runs this is, from 1, to be told in that line.
    """
    if not is_main:
        return Tracker()
    run_dir.path.mkdir(parents=True, exist_ok=True)
    run_dir.cut_metrics(first_step)
    title = title or f"{settings.run.label or settings.method.name}, seed {settings.run.seed}"
    print(head_line(title, position), flush=True)
    # W&B says its line before there is a bar that it could break; later ones go around the bar.
    wandb = open_wandb(settings, run_dir, say=lambda text: print(text, flush=True))
    name = settings.run.name or run_dir.path.name
    console = Console(total_steps=total_steps, first_step=first_step, title=name)
    if wandb is not None:
        wandb.say = console.say
    return RunTracker(run_dir, console, wandb)
