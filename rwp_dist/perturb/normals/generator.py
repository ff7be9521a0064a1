"""Standard normal values by torch's generators.

A value is a pure function of (seed, step, draw, parameter, element). No random state is kept or
saved, and the global generators are never touched.
"""

from typing import Protocol

import torch
from torch import Tensor

from rwp_dist.base.keyed import key_seed


class Normals(Protocol):
    """Standard normal values by key, on one device."""

    device: torch.device

    def fill(self, out: Tensor, step: int, draw: int, index: int) -> Tensor:
        """Fill a contiguous tensor with the values of parameter ``index``; returns the tensor.

        Args:
            out: fp32, on ``device``.
            step: update, counted from 0.
            draw: which values of that step.
            index: position of the parameter in the network.
        """


class TorchNormals:
    """Values of torch's generator, seeded anew for each parameter with a hash of the key.

    On the CPU a generator keeps 32 bits of its seed, so the key is hashed and not added up.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.seed = seed
        self.device = device
        self._generator = torch.Generator(device=device)

    def fill(self, out: Tensor, step: int, draw: int, index: int) -> Tensor:
        self._generator.manual_seed(key_seed(self.seed, step, draw, index))
        return out.normal_(generator=self._generator)
