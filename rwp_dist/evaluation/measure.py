"""One network over the evaluation samples, once for each condition."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean, stdev

import torch
import torch.distributed as dist

from rwp_dist.config import Settings
from rwp_dist.data.batch import BadRecord, Step
from rwp_dist.data.classes import Classes
from rwp_dist.data.image import Normalise
from rwp_dist.data.image.pixels import Pixels
from rwp_dist.data.open import open_eval
from rwp_dist.engine.precision import autocast
from rwp_dist.evaluation.asked import Asked
from rwp_dist.evaluation.corruptions import STRENGTHS, corrupt
from rwp_dist.evaluation.weights import ChangedWeights
from rwp_dist.process.group import same_on_all_ranks
from rwp_dist.run.checkpoint import read_checkpoint
from rwp_dist.run.evaluate import evaluate, evaluating_mode, load_network
from rwp_dist.run.task import Classification

Numbers = dict[str, float]
Progress = Callable[[int, int], None]

METRICS = ("top1", "nll", "ece")
"""What is measured under each condition."""


class Measurement:
    """A checkpoint's network on the evaluation samples of its settings. Every rank makes one.

    Raises:
        CheckpointError: the file is not a checkpoint, or not one of this network.
        DataError: the evaluation shards cannot be read, or their labels do not mean what the
            network was trained on.
    """

    def __init__(self, settings: Settings, path: Path, device: torch.device) -> None:
        with same_on_all_ranks():
            self._model = load_network(settings, path, device)
            self._val = open_eval(settings, dist.get_rank(), dist.get_world_size())
            kept = read_checkpoint(path)["parts"].get("history", {}).get("classes")
            if kept is not None:  # checkpoints of earlier versions have none
                Classes.from_state(kept).joined(self._val.dataset.classes)
        self._device = device
        self._normalise = Normalise(settings.data.mean, settings.data.std)
        self._precision = settings.precision
        self.data_id = self._val.dataset.id
        """Tells these evaluation samples from others."""
        self.num_samples = 0
        """Samples that could be read."""
        self.bad: list[BadRecord] = []
        """Those that could not."""

    def numbers(self, asked: Asked, progress: Progress) -> Numbers:
        """All that is asked for, by the names that ``rwp-dist compare`` knows. A collective.

        ``top1``, ``top5`` and ``ece`` in percent, ``nll``; then each of ``METRICS`` below
        ``corruption.KIND.STRENGTH``, ``weight_noise.DEVIATION`` and ``bits.BITS``:
        ``bits.4.top1``. Those of weight noise are means over the ``draws``, and ``METRIC_std`` is
        the deviation over these.
        """
        self._done, self._progress = 0, progress
        self._total = asked.num_passes * self._val.dataset.num_samples
        progress(0, self._total)
        changed = ChangedWeights(self._model, self._device)
        with evaluating_mode(self._model):
            numbers = self._pass()
            for name in asked.corruptions:
                for strength in STRENGTHS:
                    found = self._pass(partial(corrupt, name, strength))
                    numbers |= _named(f"corruption.{name}.{strength}", found)
            for deviation in asked.weight_noise:
                each = []
                for draw in range(asked.draws):
                    with changed.noisy(deviation, draw):
                        each.append(self._pass())
                numbers |= _named(f"weight_noise.{deviation:g}", _over_draws(each))
            for bits in asked.bits:
                with changed.quantised(bits):
                    numbers |= _named(f"bits.{bits}", self._pass())
        return numbers

    def _pass(self, change: Callable[[Pixels, int], Pixels] | None = None) -> Numbers:
        val = replace(self._val, transform=replace(self._val.transform, change=change))
        with autocast(self._device, self._precision):
            result, self.bad = evaluate(
                lambda images: self._model(self._normalise(images)).float(),
                self._counted(val.steps()),
                self._device,
                Classification(),
            )
        self.num_samples = int(result["num_samples"])
        return {"nll": result["loss"]} | {name: result[name] for name in ("top1", "top5", "ece")}

    def _counted(self, steps: Iterator[Step]) -> Iterator[Step]:
        """The steps of one pass, counted for the progress bar."""
        end = self._done + self._val.dataset.num_samples
        for step in steps:
            yield step
            self._done = min(self._done + self._val.batch * self._val.world_size, end)
            self._progress(self._done, self._total)


def _named(prefix: str, found: Numbers) -> Numbers:
    """What is measured under one condition, by the names of its numbers."""
    return {f"{prefix}.{name}": found[name] for name in found if name != "top5"}


def _over_draws(each: Sequence[Numbers]) -> Numbers:
    """Means over the draws; also deviations, if there are two or more."""
    values = {metric: [numbers[metric] for numbers in each] for metric in METRICS}
    found: Numbers = {"draws": len(each)} | {name: fmean(v) for name, v in values.items()}
    if len(each) > 1:
        found |= {f"{name}_std": stdev(v) for name, v in values.items()}
    return found
