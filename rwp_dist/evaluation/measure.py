"""One network over the evaluation samples, once for each condition."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean, stdev

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rwp_dist.base.errors import ConfigError
from rwp_dist.config import Settings
from rwp_dist.config.types import MOST_CONFUSED
from rwp_dist.data.batch import BadRecord, Step
from rwp_dist.data.classes import Classes
from rwp_dist.data.image import Normalise
from rwp_dist.data.image.pixels import Pixels
from rwp_dist.data.open import open_eval
from rwp_dist.engine.precision import autocast
from rwp_dist.evaluation.asked import Asked
from rwp_dist.evaluation.class_map import ClassMap
from rwp_dist.evaluation.corruptions import STRENGTHS, corrupt
from rwp_dist.evaluation.other_data import OtherData, open_other_data
from rwp_dist.evaluation.weights import ChangedWeights
from rwp_dist.process.group import same_on_all_ranks
from rwp_dist.run.checkpoint import read_checkpoint
from rwp_dist.run.evaluate import evaluate, evaluating_mode, load_beside, load_network
from rwp_dist.run.per_class import Confusion, PerClass, class_names
from rwp_dist.run.task import Classification

Numbers = dict[str, float]
Progress = Callable[[int, int], None]

METRICS = ("top1", "nll", "ece")
"""What is measured under each condition."""


class Measurement:
    """A checkpoint's network on the evaluation samples of its settings. Every rank makes one."""

    def __init__(
        self,
        settings: Settings,
        path: Path,
        device: torch.device,
        *,
        other: bool = False,
        class_map: ClassMap | None = None,
    ) -> None:
        """
        Args:
            settings: of the evaluation.
            path: of the checkpoint.
            device: where to compute.
            other: whether ``data.val`` is another data set, with classes of its own.
            class_map: what these classes mean, if their names do not say it.

        Raises:
            CheckpointError: the file is not a checkpoint, or not one of this network.
            ConfigError: the classes of the other data set are not those of the network.
            DataError: the evaluation shards cannot be read, or their labels do not mean what the
                network was trained on.
        """
        with same_on_all_ranks():
            self._model = load_network(settings, path, device)
            self._beside = load_beside(settings, path, device)
            classes = classes_of_checkpoint(path)
        self.other: OtherData | None = None
        """The other data set; None: these are the run's own evaluation samples."""
        if other:
            self.other = open_other_data(settings, classes, class_map)
            self._val = self.other.stream
        else:
            with same_on_all_ranks():
                self._val = open_eval(settings, dist.get_rank(), dist.get_world_size())
                if classes is not None:
                    classes.joined(self._val.dataset.classes)
        self._names = class_names(classes.names if classes else None, settings.model.num_classes)
        self._device = device
        self._normalise = Normalise(settings.data.mean, settings.data.std)
        self._precision = settings.precision
        self.data_id = self._val.dataset.id
        """Tells these evaluation samples from others."""
        self.num_samples = 0
        """Samples that could be read."""
        self.bad: list[BadRecord] = []
        """Those that could not."""
        self.per_class: PerClass | None = None
        """Answers of the clean network by class, if they are asked for."""

    def numbers(self, asked: Asked, progress: Progress) -> Numbers:
        """All that is asked for, by the names that ``rwp-dist compare`` knows. A collective.

        ``top1``, ``top5`` and ``ece`` in percent, ``nll``; then each of ``METRICS`` below
        ``corruption.KIND.STRENGTH``, ``weight_noise.DEVIATION`` and ``bits.BITS``:
        ``bits.4.top1``. Those of weight noise are means over the ``draws``, and ``METRIC_std`` is
        the deviation over these. Below ``trained`` or ``average``, if the run has an average of the
        weights: those that are not its result.
        """
        self._done, self._progress = 0, progress
        self._total = (asked.num_passes + len(self._beside)) * self._samples_of_pass
        progress(0, self._total)
        changed = ChangedWeights(self._model, self._device)
        with evaluating_mode(self._model):
            numbers = self._clean_pass(asked.per_class)
            for name, model in self._beside.items():
                with evaluating_mode(model):
                    numbers |= _named(name, self._pass(model=model))
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

    def _clean_pass(self, per_class: bool) -> Numbers:
        """That of the network as it is."""
        if not per_class:
            return self._pass()
        names = self._names
        if self.other is not None:
            names = [names[choice] for choice in self.other.choices]
        if len(names) > MOST_CONFUSED:
            raise ConfigError(
                f"a confusion matrix has at most {MOST_CONFUSED:,} classes, and here are "
                f"{len(names):,}",
                key="--per-class",
                cure="leave it out, or name fewer classes by --classes",
            )
        confusion = Confusion(len(names), self._device)
        numbers = self._pass(confusion=confusion)
        self.per_class = PerClass(names, confusion.counts())
        return numbers

    def _pass(
        self,
        change: Callable[[Pixels, int], Pixels] | None = None,
        confusion: Confusion | None = None,
        model: nn.Module | None = None,
    ) -> Numbers:
        val = replace(self._val, transform=replace(self._val.transform, change=change))
        steps, task = self._counted(val.steps()), Classification()
        if self.other is not None:
            steps, task = self.other.labelled(steps), self.other.task
        with autocast(self._device, self._precision):
            logits_of = partial(self._logits, model or self._model)
            result, self.bad = evaluate(logits_of, steps, self._device, task, confusion)
        self.num_samples = int(result["num_samples"])
        return {"nll": result["loss"]} | {name: result[name] for name in ("top1", "top5", "ece")}

    def _logits(self, model: nn.Module, images: Tensor) -> Tensor:
        """Of the classes that are possible answers."""
        logits: Tensor = model(self._normalise(images)).float()
        if self.other is None or self.other.answers.choices is None:
            return logits
        return logits[:, self.other.choices]

    @property
    def _samples_of_pass(self) -> int:
        chosen = self._val.samples
        return self._val.dataset.num_samples if chosen is None else len(chosen)

    def _counted(self, steps: Iterator[Step]) -> Iterator[Step]:
        """The steps of one pass, counted for the progress bar."""
        end = self._done + self._samples_of_pass
        for step in steps:
            yield step
            self._done = min(self._done + self._val.batch * self._val.world_size, end)
            self._progress(self._done, self._total)


def classes_of_checkpoint(path: Path) -> Classes | None:
    """The classes that a network was trained on; None: its version did not keep them.

    Raises:
        CheckpointError: the file is not a checkpoint.
    """
    kept = read_checkpoint(path)["parts"].get("history", {}).get("classes")
    return None if kept is None else Classes.from_state(kept)


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
