"""Other weights for a moment: with noise, or of few bits. The clean ones are not touched."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from rwp_dist.perturb.normals import Normals, PhiloxNormals, choose_backend, open_normals
from rwp_dist.perturb.rows import list_rows
from rwp_dist.perturb.scale import NoiseScale
from rwp_dist.perturb.weights import PerturbedCopy

SEED = 0
"""Of the noise; the same for all runs, so that they bear the same noise."""
STEP = -1
"""Noise of no step of a training."""


class ChangedWeights:
    """Weights of a network that are changed inside a ``with`` block.

    BatchNorm's statistics stay those of the clean weights. Use it without gradients, and enter
    autocast inside, because that keeps casts of weights.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._rows = list_rows(model.named_parameters())
        self._scale = NoiseScale(self._rows, "rms", device)
        self._normals = _normals(device)
        self._copy = PerturbedCopy()

    @contextmanager
    def noisy(self, deviation: float, draw: int) -> Iterator[None]:
        """``w + deviation rms(w_j) z`` for each row j of every parameter, ``z`` standard normal.

        A row is the weights of one output channel; a parameter of one dimension is one row. ``z``
        depends on the draw, the parameter and the element alone: all runs, devices and deviations
        get the same values, to a few units in the last place.
        """
        self._scale.measure(deviation)
        with self._copy.perturbing(self._scale.params) as targets:
            self._scale.draw_noise(targets, self._rows, self._normals, STEP, draw)
        yield from self._until_done()

    @contextmanager
    def quantised(self, bits: int) -> Iterator[None]:
        """Weights of ``bits`` bits, see ``quantise``; parameters of one dimension stay."""
        matrices = [rows.param for rows in self._rows if rows.is_matrix]
        with self._copy.perturbing(matrices) as targets:
            for target, param in zip(targets, matrices, strict=True):
                target.copy_(quantise(param.detach(), bits))
        yield from self._until_done()

    def _until_done(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._copy.recover()


def quantise(weights: Tensor, bits: int) -> Tensor:
    """Round to the nearest of ``2^bits - 1`` values, symmetric around 0, by output channel.

    The values of channel j are ``k max|w_j| / K`` for the integers k from -K to ``K =
    2^(bits-1) - 1``, so zero and the largest weight stay.

    Args:
        weights: fp32 ``[channels, ...]`` of two or more dimensions.
        bits: 2 to 16.
    """
    largest = 2 ** (bits - 1) - 1
    step = weights.flatten(1).abs().amax(1) / largest
    step = torch.where(step > 0, step, 1.0)  # a channel of zeros stays
    zero = torch.zeros_like(step, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weights, step, zero, 0, -largest, largest)


def _normals(device: torch.device) -> Normals:
    """The fastest of those that give Philox's values, which do not depend on the device."""
    backend = choose_backend("auto", device)
    return PhiloxNormals(SEED) if backend == "torch" else open_normals(backend, SEED, device)
