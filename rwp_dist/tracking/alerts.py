"""When a person is told at once, and in which words. ``Tracker.alert`` tells each kind once.

The launcher tells what no rank can: that a run was given up, or died without a checkpoint
(``launcher/alerts.py``).
"""

import math
from collections.abc import Mapping
from typing import Any

from rwp_dist.perturb.methods import METHODS
from rwp_dist.process.webhook import Alert

NEAR = 0.8
"""Share of ``data.max_bad_samples`` from which on a person is told."""

MANY_SKIPPED = 20
"""So many updates in a row without a finite gradient are no accident of one batch."""

STRENGTHS = ("sigma", "rho")


class Divergence:
    """Looks at the loss and at skipped updates of each record of training."""

    def __init__(
        self, guess: float, method: str, step: int, skipped: int, *, scaled: bool = False
    ) -> None:
        """
        Args:
            guess: loss of a network that knows nothing.
            method: its name.
            step: updates done so far.
            skipped: updates skipped so far.
            scaled: whether losses are those of updates that were applied, as in fp16: nan if there
                was none, which is usual while the loss scale falls.
        """
        has = [f"method.{key}" for key in STRENGTHS if key in METHODS[method].settings]
        self._cure = f"Lower {' or '.join([*has, 'optimizer.lr'])}"
        self._limit, self._scaled = 10 * guess, scaled
        self._step, self._skipped = step, skipped
        self._applied = step
        """The last step at which an update may have been applied."""
        self.is_lasting = False
        """Whether the last record has a huge loss, or ends many updates that were all skipped. One
        gradient that was not finite may come with an infinite loss, and do no harm."""

    def look(self, record: Mapping[str, Any]) -> Alert | None:
        """The alert of a run whose record is that of one that diverges; None: all is well."""
        step, skipped, loss = record["step"], record["skipped_steps"], record["loss"]
        if skipped - self._skipped < step - self._step:
            self._applied = step
        self._step, self._skipped = step, skipped
        many = min(MANY_SKIPPED, step / 2)
        self.is_lasting = self._limit <= loss < math.inf or step - self._applied >= many
        if not (loss < self._limit or (self._scaled and math.isnan(loss))):
            text = f"The loss is {loss:.3g} at step {step:,}, far above guessing. {self._cure}."
        elif step - self._applied >= MANY_SKIPPED:
            text = (
                f"The last {step - self._applied:,} updates up to step {step:,} were skipped, "
                f"because their gradient was not finite. {self._cure}."
            )
        else:
            return None
        return Alert("diverged", "The run diverges", text, "ERROR")


def bad_samples(total: int, limit: int) -> Alert | None:
    """The alert of a run that has met so many bad samples; None: they are few."""
    if total < max(1.0, NEAR * limit):
        return None
    return Alert(
        "bad_samples",
        "Many samples cannot be read",
        f"{total:,} so far; the run ends when they are more than {limit:,} "
        "(data.max_bad_samples). bad_samples/ in the run directory lists them.",
    )


def missed_checkpoint(why: str, step: int, saved: int) -> Alert:
    """The alert of a checkpoint that could not be written.

    Args:
        why: a sentence.
        step: updates done.
        saved: updates done at the newest checkpoint on disk.
    """
    lost = f"The run ends, and {step - saved:,} updates since step {saved:,} are lost."
    return Alert("missed_checkpoint", "A checkpoint is missing", f"{why} {lost}", "ERROR")


def silent_rank(sentence: str, patience_s: float) -> Alert:
    """The alert of a run that stands still; ``sentence`` says for which rank it waits."""
    text = f"No rank has gone on for {patience_s:.0f} s. {sentence}"
    return Alert("silent_rank", "The run stands still", text, "ERROR")


def finished(summary: Mapping[str, Any]) -> Alert:
    """The alert of a finished run, with its top-1 in percent if it was evaluated."""
    top1 = summary.get("top1")
    score = "" if top1 is None else f", top-1 {top1:.2f} %"
    return Alert("finished", "Finished", f"{summary['steps']:,} updates{score}.", "INFO")
