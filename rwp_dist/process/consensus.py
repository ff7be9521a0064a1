"""What ranks agree on before every step, without waiting for each other or for the device.

While a step is computed, each rank says what it knows of the next one: how many samples of each
role it has, how many it could not read, and whether it was asked to stop. The sums over all ranks
are there when the next step begins. They travel on the CPU, over gloo, beside the gradients.
"""

from dataclasses import dataclass
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Agreed:
    """Sums over all ranks."""

    clean: float
    """Samples of clean slots that count."""
    perturbed: float
    """Samples of perturbed slots that count."""
    bad: int
    """Samples that could not be read."""
    stop: bool
    """Whether any rank was asked to stop before this step."""


class Consensus:
    """One small sum over all ranks for each step, one step ahead."""

    def __init__(self) -> None:
        self._group: dist.ProcessGroup | None = None
        if dist.get_world_size() > 1:
            self._group = cast(dist.ProcessGroup, dist.new_group(backend="gloo"))
        self._pending: tuple[dist.Work | None, Tensor] | None = None

    def post(self, *, clean: float, perturbed: float, bad: int, stop: bool) -> None:
        """Say what this rank knows of the next step. Every rank calls it once a step."""
        sums = torch.tensor([clean, perturbed, float(bad), float(stop)], dtype=torch.float64)
        work = None
        if self._group is not None:
            work = dist.all_reduce(sums, group=self._group, async_op=True)
        self._pending = (work, sums)

    def take(self) -> Agreed:
        """The sums over all ranks for the step that begins now."""
        assert self._pending is not None, "post comes before take"
        (work, sums), self._pending = self._pending, None
        if work is not None:
            work.wait()
        clean, perturbed, bad, stop = sums.tolist()
        return Agreed(clean, perturbed, int(bad), stop > 0)

    def close(self) -> None:
        """Leave the group."""
        if self._pending is not None and self._pending[0] is not None:
            self._pending[0].wait()
        if self._group is not None:
            dist.destroy_process_group(self._group)
