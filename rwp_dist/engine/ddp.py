"""torch's DistributedDataParallel: every rank holds all weights, gradients and optimizer state."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm

from rwp_dist.base.errors import ConfigError
from rwp_dist.config import Settings, Split
from rwp_dist.engine.broadcast import broadcast_tensors
from rwp_dist.engine.clipping import choose_clip
from rwp_dist.engine.loss_scale import LossScale
from rwp_dist.engine.precision import autocast
from rwp_dist.engine.state import (
    OptimizerState,
    group_state,
    load_group_state,
    load_whole_state,
    whole_state,
)
from rwp_dist.perturb.weights import CleanWeights, PerturbedCopy


class DDPEngine:
    """An ``Engine`` that splits nothing over the ranks."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        settings: Settings,
        split: Split,
        device: torch.device,
        *,
        some_unused: bool = False,
    ) -> None:
        """``some_unused``: there are parameters that take no part in a pass."""
        broadcast_tensors(model)
        self.module, self.optimizer, self.device = model, optimizer, device
        self.num_passes = split.micro_batches
        self.params = dict(model.named_parameters())
        self.trained = {name: p for name, p in self.params.items() if p.requires_grad}
        self.shapes = {name: tuple(p.shape) for name, p in self.params.items()}
        self.num_parameters = sum(p.numel() for p in self.trained.values())
        self.weights: CleanWeights = PerturbedCopy()
        self._skipped = torch.zeros((), dtype=torch.int64, device=device)
        self._skips_by_itself = False
        """Whether the optimizer skips an update if it is told so on the device."""
        self._precision = settings.precision
        self._clip = choose_clip(model, settings)
        self.loss_scale: LossScale | None = None
        if settings.precision == "fp16":
            # Before anything else looks at gradients: hooks are called in the order they came.
            self.loss_scale = LossScale(self.trained.values(), device)
        self._replica: DistributedDataParallel | None = None
        if dist.get_world_size() > 1:
            in_bf16 = settings.engine.reduce_dtype == "bf16"
            self._replica = _replicated(model, some_unused=some_unused, in_bf16=in_bf16)
        self._passes = 0
        self._norm: Tensor | None = None

    def forward(self, images: Tensor) -> Tensor:
        self._passes += 1
        # Whether a backward pass reduces gradients is decided by its forward pass.
        return self._logits(images, reducing=self._passes == self.num_passes)

    def forward_only(self, images: Tensor) -> Tensor:
        return self._logits(images, reducing=False)

    def _logits(self, images: Tensor, *, reducing: bool) -> Tensor:
        """Through DDP on several ranks, also where nothing is reduced.

        There torch.compile cuts a graph where a bucket of gradients is full, so that its reduction
        begins during the backward pass. All passes then take this one form.
        """
        replica = self._replica
        waiting = nullcontext() if replica is None or reducing else replica.no_sync()
        with _refusing(), waiting, autocast(self.device, self._precision):
            logits: Tensor = (replica or self.module)(images)
        return logits.float()

    def backward(self, loss: Tensor) -> None:
        with _refusing():
            self.scaled(loss / self.num_passes).backward()
            if self._replica is not None and self._passes == self.num_passes:
                self._replica._check_reducer_finalized()  # or ranks would step apart

    def scaled(self, loss: Tensor) -> Tensor:
        return loss if self.loss_scale is None else self.loss_scale.scaled(loss)

    def gradients(self, params: Sequence[nn.Parameter]) -> list[Tensor | None]:
        return [p.grad for p in params]

    def step(self, lr: float) -> Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_factor", 1.0)
        self._passes = 0
        trained = self.trained.values()
        for param in trained:
            if param.grad is None:  # no pass has used it; ZeRO's gradient is 0 then
                param.grad = torch.zeros_like(param)
        self._norm = get_total_norm([p.grad for p in trained if p.grad is not None])
        if self._clip is not None:
            self._clip(self._norm)
        # All ranks hold the same gradient, and so agree.
        applied = self._norm.isfinite()
        self._update_if(applied)
        self.optimizer.zero_grad()
        self._skipped += ~applied
        return applied

    def _update_if(self, finite: Tensor) -> None:
        """Update the weights if the gradient is finite.

        Fused optimizers read that on the device, so that the host goes on. Not in their first
        update: SGD would begin with momentum that nothing has written if it were skipped.
        """
        if self._skips_by_itself:
            self.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
            self.optimizer.step()
        elif finite:
            self.optimizer.step()
            fused = all(group.get("fused") for group in self.optimizer.param_groups)
            self._skips_by_itself = fused and getattr(
                self.optimizer, "_step_supports_amp_scaling", False
            )

    @property
    def skipped_steps(self) -> int:
        return int(self._skipped)

    def grad_norm(self) -> float | None:
        return None if self._norm is None else float(self._norm)

    def optimizer_state(self, *, keep: bool) -> OptimizerState:
        return whole_state(self.optimizer, self.trained if keep else {})

    def optimizer_groups(self) -> list[dict[str, Any]]:
        return group_state(self.optimizer)

    def full_weights(self, *, keep: bool = True) -> dict[str, Tensor]:
        self.weights.ensure_clean()
        return {name: p.detach().cpu().clone() for name, p in self.params.items() if keep}

    def load(
        self,
        weights: dict[str, Tensor],
        state: OptimizerState,
        groups: list[dict[str, Any]] | None = None,
    ) -> None:
        with torch.no_grad():
            for name, param in self.params.items():
                param.copy_(weights[name])
        load_whole_state(self.optimizer, self.trained, state)
        self._skips_by_itself = False  # the state may be that of no update yet
        if groups:
            load_group_state(self.optimizer, groups)

    def close(self) -> None:
        self._replica = None
        if self.loss_scale is not None:
            self.loss_scale.close()


class _Network(nn.Module):
    """The network, or without images the sum of its weights."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor | None = None) -> Tensor:
        if images is None:
            trained = [p for p in self.network.parameters() if p.requires_grad]
            return torch.stack([p.sum() for p in trained]).sum()
        logits: Tensor = self.network(images)
        return logits


@contextmanager
def _refusing() -> Iterator[None]:
    """Have DDP's errors about a network name what helps.

    Raises:
        ConfigError: a pass has not used the parameters that the passes before have used, or one of
            them twice.
    """
    try:
        yield
    except RuntimeError as error:
        said = str(error).partition(". ")[0]
        if not said.startswith(("Expected to have finished", "Expected to mark")):
            raise
        raise ConfigError(
            f"DistributedDataParallel cannot train this network ({said})",
            key="engine.name",
            cure="set it to deepspeed (or checkpoint activations with use_reentrant=False)",
        ) from error


def _replicated(network: nn.Module, *, some_unused: bool, in_bf16: bool) -> DistributedDataParallel:
    """The network, whose backward passes average gradients over all ranks."""
    # DDP warns where a gradient lies otherwise in memory than its place in a bucket: also where a
    # dimension has one element, so that every stride is right. The copy is right in any case.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    replica = DistributedDataParallel(
        _Network(network),
        init_sync=False,
        gradient_as_bucket_view=True,
        find_unused_parameters=some_unused,
    )
    # Each rank keeps the statistics of what it has seen. Two versions of torch, two names.
    replica.broadcast_buffers = replica.forward_sync_buffers = False
    if in_bf16:
        replica.register_comm_hook(dist.group.WORLD, _average_in_bf16)
    # DDP sorts its buckets by the first backward pass, and from then on sums in another order.
    # Sorted now, a resumed run sums as one that was never interrupted. If it looks for unused
    # parameters, it never sorts.
    if not some_unused:
        replica().backward()
        network.zero_grad()
        with replica.no_sync():  # it sorts at the beginning of a forward pass
            replica()
    return replica


def _average_in_bf16(
    group: dist.ProcessGroup,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[Tensor]:
    """torch's own hook, which DDP takes by its name for one that needs NCCL."""
    return bf16_compress_hook(group, bucket)
