"""The parts of a run: what the loop works with, and what a checkpoint keeps of each."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from rwp_dist.config import Settings, Split
from rwp_dist.data.classes import Classes, Note
from rwp_dist.data.image import Mixer, Normalise
from rwp_dist.data.open import Eval, Train
from rwp_dist.engine.engine import Engine
from rwp_dist.perturb import Method, Perturbed
from rwp_dist.run.average import build_average
from rwp_dist.run.task import Classification
from rwp_dist.run.timeline import Timeline


class Stateful(Protocol):
    """A part with a state of its own: a checkpoint is ``{name: state}``."""

    def state_dict(self) -> dict[str, Any]:
        """Numbers, strings and tensors on the CPU. A collective; rank 0's is saved."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what ``state_dict`` gave, on any number of ranks."""


class Extra(Stateful, Protocol):
    """A part that a run does without unless the settings ask for it: an average of the weights.

    If its state has ``weights``, ``{name: whole tensor}`` on every rank, these are evaluated in
    place of the trained ones: while training, and by ``rwp-dist evaluate`` from a checkpoint.
    Those under ``beside`` are evaluated beside them while training.
    """

    def after_step(self, step: int, applied: bool | Tensor) -> None:
        """Update ``step``, counted from 0, is done, and the weights are clean.

        ``applied``: it was not skipped; perhaps known on the device alone.
        """

    def evaluated(self) -> dict[str, dict[str, Tensor]]:
        """``weights`` and ``beside`` of the state, wherever they are, and not copied."""


EXTRAS: dict[str, Callable[[Settings, Engine, Timeline], Extra | None]] = {
    "average": build_average,
    "loss_scale": lambda settings, engine, timeline: engine.loss_scale,
}
"""Every extra part by the name of its state. A builder returns None where the settings do not ask
for it. A new one is a file with the part, and its line here."""


def weights_to_evaluate(
    states: Iterable[dict[str, Any]], key: str = "weights"
) -> dict[str, Tensor]:
    """Weights that parts have for evaluation, from their states; empty: the trained ones.

    ``key``: ``beside`` for those that are evaluated beside them.
    """
    return {name: w for state in states for name, w in state.get(key, {}).items()}


@dataclass(frozen=True)
class Parts:
    """Everything that the loop works with."""

    settings: Settings
    method: Method
    device: torch.device
    split: Split
    train: Train
    """This rank's training steps."""
    val: Eval
    """This rank's share of the evaluation samples."""
    mixer: Mixer | None
    normalise: Normalise
    """uint8 images ``[B, C, H, W]`` on the device to what the network takes."""
    task: Classification
    timeline: Timeline
    engine: Engine
    perturbed: Perturbed
    extras: dict[str, Extra]
    flops_per_image: Callable[[int], float | None]
    """From a step to the operations of one forward and backward pass (``flops.count_flops``)."""
    classes: Classes | None = None
    """Of the training shards; None: the streams are not of shards."""
    notes: tuple[Note, ...] = ()
    """What to tell before the first step."""

    def close(self) -> None:
        """Release threads, hooks and buffers, so that a process can build other parts."""
        self.perturbed.close()
        self.engine.close()
