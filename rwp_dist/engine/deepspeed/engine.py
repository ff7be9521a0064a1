"""The engine that trains with DeepSpeed."""

import io
import math
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

import deepspeed
import torch
from torch import Tensor, nn

from rwp_dist.base.errors import ConfigError
from rwp_dist.config import Settings, Split
from rwp_dist.engine.broadcast import broadcast_tensors
from rwp_dist.engine.deepspeed.config import check_extra, deepspeed_config
from rwp_dist.engine.deepspeed.state import gather_optimizer_state, inner_optimizer, load_state
from rwp_dist.engine.deepspeed.weights import Gathered, RestoredByStep
from rwp_dist.engine.loss_scale import LossScale
from rwp_dist.engine.precision import autocast
from rwp_dist.engine.sharding import needs_copy, shares_weights, zero_stage
from rwp_dist.engine.state import OptimizerState, group_state, load_group_state
from rwp_dist.perturb.weights import CleanWeights, PerturbedCopy


class DeepSpeedEngine:
    """An ``Engine`` that can split memory over the ranks (ZeRO)."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        settings: Settings,
        split: Split,
        device: torch.device,
        *,
        num_perturbed: int,
    ) -> None:
        """``num_perturbed``: most perturbed passes of any one rank in one update."""
        if shares_weights(settings):
            prepare_for_stage_3(model)
        compile_nothing()
        broadcast_nothing()
        broadcast_tensors(model)
        deepspeed.utils.logger.setLevel("ERROR")  # it warns of every optimizer that is not its own
        stage = zero_stage(settings)
        self.device = device
        self._stage = stage
        self._precision = settings.precision
        self.loss_scale: LossScale | None = None  # fp16 is refused before
        self.num_passes = split.micro_batches
        # Stage 3 empties parameters, so their shapes are kept.
        self.shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        config = deepspeed_config(settings, split)
        check_extra(config)
        with redirect_stdout(io.StringIO()):
            self.ds, *_ = deepspeed.initialize(
                model=model,
                optimizer=optimizer,
                config=config,
                dist_init_required=False,
            )
        self.module: nn.Module = self.ds.module
        self.params = dict(self.module.named_parameters())
        self.trained = {name: p for name, p in self.params.items() if p.requires_grad}
        self.weights: CleanWeights
        if shares_weights(settings):
            self.weights = Gathered(self.ds.optimizer)
        elif needs_copy(settings, num_perturbed):
            self.weights = PerturbedCopy()
        else:
            self.weights = RestoredByStep(self.ds.optimizer, split.world_size)
        self._passes = 0
        self._norm: Tensor | None = None
        """Norm of the last update's gradient, at stage 0."""
        self.skipped_steps = 0
        self.num_parameters = sum(math.prod(self.shapes[name]) for name in self.trained)

    def forward(self, images: Tensor) -> Tensor:
        self._passes += 1
        self.ds.set_gradient_accumulation_boundary(self._passes == self.num_passes)
        logits: Tensor = self.ds(images)
        return logits.float()

    def forward_only(self, images: Tensor) -> Tensor:
        with autocast(self.device, self._precision):
            logits: Tensor = self.module(images)
        return logits.float()

    def backward(self, loss: Tensor) -> None:
        self.ds.backward(loss)

    def scaled(self, loss: Tensor) -> Tensor:
        return loss

    def gradients(self, params: Sequence[nn.Parameter]) -> list[Tensor | None]:
        if self._stage == 0:
            return [p.grad for p in params]
        return [deepspeed.utils.safe_get_full_grad(p) for p in params]

    def step(self, lr: float) -> bool:
        for group in self.ds.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_factor", 1.0)
        self._passes = 0
        if self._stage == 0 and not self._gradient_is_finite():
            self.ds.optimizer.zero_grad()
            applied = False
        else:
            self.ds.step()
            applied = self.ds.was_step_applied()
        self.skipped_steps += not applied
        return applied

    def _gradient_is_finite(self) -> bool:
        """Stage 0 in fp32 would apply any gradient. All ranks hold the same, and so agree."""
        grads = [p.grad for p in self.trained.values() if p.grad is not None]
        self._norm = torch.stack(torch._foreach_norm(grads)).norm()
        return bool(self._norm.isfinite())

    def grad_norm(self) -> float | None:
        norm = self._norm if self._stage == 0 else self.ds.get_global_grad_norm()
        return None if norm is None else float(norm)

    def optimizer_state(self, *, keep: bool) -> OptimizerState:
        return gather_optimizer_state(self.ds.optimizer, self._stage, self.trained, keep=keep)

    def full_weights(self, *, keep: bool = True) -> dict[str, Tensor]:
        self.weights.ensure_clean()
        weights = {}
        for name, param in self.params.items():
            if self._stage == 3 and name in self.trained:
                value = deepspeed.utils.safe_get_full_fp32_param(param)
                if keep:
                    weights[name] = value.cpu().clone()
                continue
            with deepspeed.zero.GatheredParameters([param], enabled=self._stage == 3):
                if keep:
                    weights[name] = param.detach().cpu().clone()
        return weights

    def optimizer_groups(self) -> list[dict[str, Any]]:
        return group_state(self.optimizer)

    def load(
        self,
        weights: dict[str, Tensor],
        state: OptimizerState,
        groups: list[dict[str, Any]] | None = None,
    ) -> None:
        """Take over whole weights and optimizer state, whatever ranks and stage wrote them."""
        load_state(self.ds.optimizer, self._stage, self.params, weights, state)
        if groups:
            load_group_state(self.optimizer, groups)

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """torch's optimizer; under ZeRO it holds this rank's flat shards."""
        return inner_optimizer(self.ds.optimizer, self._stage)

    def close(self) -> None:
        self.ds.destroy()


def compile_nothing() -> None:
    """Keep DeepSpeed from compiling its shared-memory collective, which training does not use.

    It would do so at the first start on a CPU, for a minute, also for one process alone.
    """
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def prepare_for_stage_3(model: nn.Module) -> None:
    """Lay out parameters as ZeRO stage 3 wants them, which shares out rows of bytes.

    Raises:
        ConfigError: there is a parameter that it cannot share out.
    """
    for name, param in model.named_parameters():
        odd = "no dimensions" if not param.ndim else "no elements" if not param.numel() else None
        if param.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            odd = f"the type {param.dtype}"
        if odd:
            raise ConfigError(
                f"stage 3 cannot share out {name}, which has {odd}",
                key="deepspeed.zero_stage",
                cure="set it to 2",
            )
        param.data = param.data.contiguous()
    if type(model).__name__ == "OptimizedModule":
        raise ConfigError(
            "stage 3 cannot gather the weights of a compiled network",
            key="deepspeed.zero_stage",
            cure="set it to 2, or leave out torch.compile",
        )


def broadcast_nothing() -> None:
    """Keep DeepSpeed from giving all ranks rank 0's parameters: ``broadcast_tensors`` has done it.

    DeepSpeed's own fails for parameters without dimensions and for some that are not contiguous.
    """
    deepspeed.DeepSpeedEngine._broadcast_model = lambda self: None
