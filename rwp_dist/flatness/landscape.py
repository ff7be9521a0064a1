"""Loss and top-1 of one network, at any weights, on a sample of the training images."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from rwp_dist.base.errors import DataError
from rwp_dist.config import Settings
from rwp_dist.data.batch import Batch
from rwp_dist.data.image import Normalise
from rwp_dist.data.open import open_sample
from rwp_dist.perturb.reference import Tensors
from rwp_dist.run.task import Classification
from rwp_dist.run.trial import call_with, named_once

Sums = list[float]
"""Summed loss, images classified correctly, images: they add up over batches."""


@dataclass(frozen=True)
class Sample:
    """Images that every rank holds, cut into batches in the same way for any number of ranks."""

    batches: Sequence[Batch]
    num_images: int
    """Images that could be read; the others have weight 0."""
    digest: str
    """Changes with any pixel, any label, and the size of the batches."""


def read_sample(settings: Settings, num_images: int, batch: int, device: torch.device) -> Sample:
    """Read training images without augmentation (see ``open_sample``).

    Raises:
        DataError: shards cannot be read, or none of the images can.
    """
    sha256 = hashlib.sha256(f"{batch} images a batch".encode())
    batches = []
    for step in open_sample(settings, num_images, batch).steps():
        [found] = step.batches
        for part in (found.images, found.labels, found.weights):
            sha256.update(part.contiguous().numpy().tobytes())
        batches.append(found.to(device))
    count = int(sum(float(batch.weights.sum()) for batch in batches))
    if not count:
        raise DataError("no training image can be read", cure="run `rwp-dist shards verify`")
    return Sample(batches, count, sha256.hexdigest())


class Landscape:
    """A network in evaluation mode: BatchNorm uses the statistics that it has learnt."""

    def __init__(self, name: str, model: nn.Module, settings: Settings, sample: Sample) -> None:
        self.name = name
        """Of its run."""
        self.model = model.eval()
        self.sample = sample
        self.weights: Tensors = {
            name: param.detach() for name, param in model.named_parameters() if param.requires_grad
        }
        """The trainable parameters, clean."""
        first_name: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
        self._places = {
            name: first_name[tensor]
            for name, tensor in named_once(model)
            if first_name.get(tensor, "") in self.weights
        }
        """Where the network has them; several where modules share one."""
        self._task = Classification()
        self._normalise = Normalise(settings.data.mean, settings.data.std)
        self.identity = {
            "network": settings.model.model_dump(),
            "weights": _digest(model),
            "normalise": [settings.data.mean, settings.data.std],
            "sample": sample.digest,
        }
        """What a value of this landscape depends on."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.sample.batches[0].images.device

    def loss(self, weights: Tensors, batch: Batch) -> Tensor:
        """Summed loss of a batch at some weights, to be differentiated."""
        return self._losses(self._logits(weights, batch), batch).sum()

    def sums(self, weights: Tensors, batches: Sequence[Batch] | None = None) -> Sums:
        """Of some batches, or of the whole sample."""
        total = torch.zeros(3, dtype=torch.float64, device=self.device)
        with torch.no_grad():
            for batch in self.sample.batches if batches is None else batches:
                logits = self._logits(weights, batch)
                hits = self._task.hits(logits, batch.labels, batch.weights)[0]
                each = (self._losses(logits, batch).double(), hits.double(), batch.weights.double())
                total += torch.stack(each).sum(1)
        return total.tolist()

    def _logits(self, weights: Tensors, batch: Batch) -> Tensor:
        places = self._places.items()
        named = {name: weights[first] for name, first in places if first in weights}
        logits: Tensor = call_with(self.model, named, self._normalise(batch.images))
        return logits

    def _losses(self, logits: Tensor, batch: Batch) -> Tensor:
        return self._task.nll(logits, batch.labels, batch.weights)


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """fp32 throughout, and attention by the kernel that can be differentiated twice."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            sdpa_kernel(SDPBackend.MATH),
            torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
        ):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


def _digest(model: nn.Module) -> str:
    sha256 = hashlib.sha256()
    for name, value in model.state_dict().items():
        bits = value.cpu().contiguous().view(-1).view(torch.uint8)  # NumPy lacks some types
        sha256.update(name.encode() + bits.numpy().tobytes())
    return sha256.hexdigest()
