"""How clean weights come back under ZeRO, which keeps them in shards of its own."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import deepspeed
import torch
from torch import Tensor, nn


class RestoredByStep:
    """ZeRO 1 and 2: the optimizer's step rewrites all weights from its fp32 shards.

    So a perturbed pass that is the last before the step needs neither a copy nor a restore.
    Without a step, bringing the weights back is a collective: after an exception on one rank it
    waits for ``ensure_clean``, which all ranks call.
    """

    whole = True

    def __init__(self, optimizer: Any, world_size: int) -> None:
        self._optimizer = optimizer
        self._alone = world_size == 1
        self._dirty = False

    @contextmanager
    def perturbing(self, params: Sequence[nn.Parameter]) -> Iterator[list[Tensor]]:
        """Perturb in place: ZeRO keeps the clean weights and rewrites all of them in ``step()``."""
        self._dirty = True
        yield list(params)

    def restore(self, *, last: bool) -> None:
        """The step that follows does it."""
        assert last, "a pass after a perturbed one needs a perturbed copy"

    def recover(self) -> None:
        """Bring the weights back at once if there is one rank; else ``ensure_clean`` will."""
        if self._alone:
            self.stepped(applied=False)

    def stepped(self, applied: bool | Tensor) -> None:
        """Gather clean weights from the shards if the step was skipped."""
        if not applied:
            self._optimizer.update_lp_params()
        self._dirty = False

    def ensure_clean(self) -> None:
        """Bring clean weights back on all ranks if any rank lost them. A collective."""
        if not self._alone:
            dirty = torch.tensor(float(self._dirty), device=self._optimizer.device)
            torch.distributed.all_reduce(dirty, torch.distributed.ReduceOp.MAX)
            self._dirty = bool(dirty)
        if self._dirty:
            self.stepped(applied=False)


class Gathered:
    """ZeRO 3: weights are shards, perturbed in place and restored from the fp32 shards.

    All ranks write the same noise, one whole parameter at a time.
    """

    whole = False

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer

    @contextmanager
    def perturbing(self, params: Sequence[nn.Parameter]) -> Iterator[list[Tensor]]:
        """Gather the parameters; when the block ends, each rank keeps its shard of them."""
        with deepspeed.zero.GatheredParameters(list(params), modifier_rank=0):
            yield list(params)

    def restore(self, *, last: bool) -> None:
        """Copy this rank's fp32 shards over its shards of the weights. No communication."""
        self.recover()

    def recover(self) -> None:
        """As ``restore``. First releases the gathered parameters, which are noisy."""
        self._optimizer.parameter_offload.partition_all_parameters()
        with torch.no_grad():
            shards = self._optimizer.fp16_partitioned_groups_flat
            for shard, clean in zip(
                shards, self._optimizer.fp32_partitioned_groups_flat, strict=True
            ):
                shard.copy_(clean)

    def stepped(self, applied: bool | Tensor) -> None:
        pass

    def ensure_clean(self) -> None:
        pass
