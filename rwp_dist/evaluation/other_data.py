"""Other data for a network than its own evaluation samples, with what is right for each of them."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from rwp_dist.base.errors import ConfigError
from rwp_dist.base.urls import shown
from rwp_dist.config import Settings
from rwp_dist.data.batch import Step
from rwp_dist.data.chosen import classes_of
from rwp_dist.data.classes import Classes
from rwp_dist.data.open import open_eval
from rwp_dist.data.plan import evaluation_rows
from rwp_dist.data.sample_names import sample_names
from rwp_dist.data.stream import EvalStream
from rwp_dist.evaluation.answers import Answers, Network, answers_of
from rwp_dist.evaluation.class_map import KEY, ClassMap
from rwp_dist.process.group import from_main, same_on_all_ranks
from rwp_dist.run.per_class import one_label
from rwp_dist.run.task import Classification

KEY_DIGITS = 6
"""Of the digest that tells data and their classes from others of the same name."""


class SeveralRight(Classification):
    """Of an image with several right classes, any of them is a hit.

    Labels are masks ``[B, num_choices]``, True where a class is right. The NLL is ``-log`` of the
    probability that the right classes have together.
    """

    def nll(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        right = logits.masked_fill(~labels, -torch.inf).logsumexp(1)
        return torch.where(weights > 0, logits.logsumexp(1) - right, 0.0)

    def hits(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices
        met = labels.gather(1, best)
        return torch.stack([met[:, 0], met.any(1)]) * (weights > 0)

    def calibration(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        return super().calibration(logits, one_label(logits, labels), weights)


@dataclass(frozen=True)
class OtherData:
    """Samples that have a right answer, and what it is."""

    stream: EvalStream
    """Of these samples, for this rank."""
    answers: Answers
    num_outputs: int
    """Of the network."""
    key: str
    """Names data and their classes in the run's record: ``imagenet-a@3f2a91``."""

    @property
    def task(self) -> Classification:
        """Loss and metrics for the labels of ``labelled``."""
        return SeveralRight() if self._several else Classification()

    @property
    def choices(self) -> list[int]:
        """Outputs of the network that are possible answers, ascending."""
        chosen = self.answers.choices
        return list(range(self.num_outputs) if chosen is None else chosen)

    @property
    def num_left_out(self) -> int:
        """Samples without a right answer."""
        return int((self.answers.of_sample < 0).sum())

    @property
    def _several(self) -> bool:
        return any(len(right) > 1 for right in self.answers.sets)

    def labelled(self, steps: Iterable[Step]) -> Iterator[Step]:
        """The steps of ``stream``, with what is right in place of the labels of the data.

        These are places among the choices ``[B]``, or masks ``[B, num_choices]`` where a sample has
        several.
        """
        stream, rights = self.stream, self._rights()
        assert stream.samples is not None, "they are chosen"
        sets = torch.from_numpy(self.answers.of_sample[stream.samples])
        rows = evaluation_rows(len(sets), stream.batch, stream.rank, stream.world_size)
        for step, (positions, _) in zip(steps, rows, strict=True):
            labels = rights[sets[torch.from_numpy(positions)]]
            yield replace(step, batches=[replace(step.batches[0], labels=labels)])

    def _rights(self) -> Tensor:
        """What is right in each of the sets: ``[S]`` or ``[S, num_choices]``."""
        choices = self.choices
        place = {number: at for at, number in enumerate(choices)}
        sets = [[place[number] for number in right] for right in self.answers.sets]
        if not self._several:
            return torch.tensor([right[0] if right else 0 for right in sets])
        masks = torch.zeros(len(sets), len(choices), dtype=torch.bool)
        for mask, right in zip(masks, sets, strict=True):
            mask[right] = True
        return masks


def open_other_data(
    settings: Settings, network: Classes | None, class_map: ClassMap | None
) -> OtherData:
    """The shards of ``data.val`` for a network that was trained on others. A collective.

    Args:
        settings: of the network, with the other data as ``data.val``.
        network: its classes, as its checkpoint has them; None: they are not known.
        class_map: what the data's classes mean; None: the same names mean the same.

    Raises:
        ConfigError: there are no such data, classes do not fit each other, or no sample has a right
            answer.
        DataError: shards are missing, damaged or without an index.
    """
    num_outputs = settings.model.num_classes
    answers: Answers | None = None
    with same_on_all_ranks():
        # Labels of the data are no outputs of the network.
        most = max(num_outputs, classes_of(settings, "data.val").num)
        model = settings.model.model_copy(update={"num_classes": most})
        opening = settings.model_copy(update={"model": model})
        stream = open_eval(opening, dist.get_rank(), dist.get_world_size())
        for manifest in stream.dataset.manifests:
            manifest.need_indexes()
        if dist.get_rank() == 0:
            names = partial(sample_names, stream.dataset, stream.cache)
            known = Network(network or Classes(num_outputs, None, ""), num_outputs)
            data = stream.dataset.classes
            answers = answers_of(class_map, known, data, stream.dataset.labels, names)
            if not (answers.of_sample >= 0).any():
                raise ConfigError(
                    f"{data.place}: no image of these data has a right answer",
                    key=KEY if class_map else "--data",
                    cure="name the right data, or the map that belongs to them",
                )
    answers = from_main(lambda: answers)
    assert answers is not None, "rank 0 has made them"
    samples = np.flatnonzero(answers.of_sample >= 0)
    key = _key(settings.data.val, stream.dataset.id, answers)
    return OtherData(replace(stream, samples=samples), answers, num_outputs, key)


def _key(place: str, data_id: str, answers: Answers) -> str:
    """A name of the data, and a digest of these data and of what is right for them."""
    name = re.sub(r"[^A-Za-z0-9_-]", "_", shown(place).rstrip("/").rpartition("/")[2])
    told = (data_id, answers.choices, answers.sets, answers.of_sample.tolist())
    return f"{name}@{hashlib.sha256(repr(told).encode()).hexdigest()[:KEY_DIGITS]}"
