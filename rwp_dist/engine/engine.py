"""The only file that knows DeepSpeed: gradients, updates, and how clean weights come back."""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

import deepspeed
import torch
from torch import Tensor, nn
from torch.profiler import record_function

from rwp_dist.config import Settings, Split
from rwp_dist.engine.deepspeed import check_extra, deepspeed_config
from rwp_dist.perturb.weights import PerturbedCopy


class RestoredByStep:
    """ZeRO 1 and 2: the optimizer's step writes all weights anew from its fp32 shards.

    A perturbed pass that is the last before the step needs neither copy nor restore. Bringing the
    weights back without a step is a collective, so after an exception on one rank alone it waits
    for ``ensure_clean``, which all ranks call.
    """

    whole = True

    def __init__(self, optimizer: Any, world_size: int) -> None:
        self._optimizer = optimizer
        self._alone = world_size == 1
        self._dirty = False

    @contextmanager
    def perturbing(self, params: Sequence[nn.Parameter]) -> Iterator[list[Tensor]]:
        """In place: the fp32 shards are the copy, and weights are not theirs until the step."""
        self._dirty = True
        yield list(params)

    def restore(self, *, last: bool) -> None:
        """The step that follows does it."""
        assert last, "a pass after a perturbed one needs a perturbed copy"

    def recover(self) -> None:
        """With one rank, bring the weights back at once; else ``ensure_clean`` will."""
        if self._alone:
            self.stepped(applied=False)

    def stepped(self, applied: bool) -> None:
        """Gather clean weights from the shards if the step did not."""
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
    """ZeRO 3: weights exist as shards, perturbed in place and restored from the fp32 shards.

    All ranks write the same noise, one whole parameter at a time.
    """

    whole = False

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer

    @contextmanager
    def perturbing(self, params: Sequence[nn.Parameter]) -> Iterator[list[Tensor]]:
        """Gather the parameters, and share out what was written when the context ends."""
        with deepspeed.zero.GatheredParameters(list(params), modifier_rank=0):
            yield list(params)

    def restore(self, *, last: bool) -> None:
        """Copy this rank's fp32 shards over its shards of the weights: no communication."""
        self.recover()

    def recover(self) -> None:
        """As ``restore``; whole parameters that DeepSpeed still holds are noisy, and let go."""
        self._optimizer.parameter_offload.partition_all_parameters()
        with torch.no_grad():
            shards = self._optimizer.fp16_partitioned_groups_flat
            for shard, clean in zip(
                shards, self._optimizer.fp32_partitioned_groups_flat, strict=True
            ):
                shard.copy_(clean)

    def stepped(self, applied: bool) -> None:
        """Nothing to do: the weights are clean in any case."""

    def ensure_clean(self) -> None:
        """Nothing to do: ``recover`` is local and already has."""


class Engine:
    """One DeepSpeed engine: forward, backward of weighted losses, one update."""

    def __init__(
        self,
        model: nn.Module,
        settings: Settings,
        split: Split,
        device: torch.device,
        *,
        num_perturbed: int,
    ) -> None:
        """``num_perturbed``: most perturbed passes of any one rank in one update."""
        compile_nothing()
        deepspeed.utils.logger.setLevel("ERROR")  # it warns of every optimizer that is not its own
        self.stage = settings.deepspeed.zero_stage
        self.device = device
        self._autocast = settings.precision == "bf16"
        self._num_passes = split.micro_batches
        # Stage 3 empties parameters, so what is asked of their shapes is asked before.
        self.shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        model.to(device)
        config = deepspeed_config(settings, split)
        check_extra(config)
        with redirect_stdout(io.StringIO()):  # what it compiles, it says on stdout
            self.ds, *_ = deepspeed.initialize(
                model=model,
                optimizer=build_optimizer(model.parameters(), settings),
                config=config,
                dist_init_required=False,
            )
        self.module: nn.Module = self.ds.module
        self.params = dict(self.module.named_parameters())
        self.trained = {name: p for name, p in self.params.items() if p.requires_grad}
        self.weights: PerturbedCopy | RestoredByStep | Gathered
        if self.stage == 3:
            self.weights = Gathered(self.ds.optimizer)
        elif self.stage == 0 or num_perturbed > 1:
            self.weights = PerturbedCopy()
        else:
            self.weights = RestoredByStep(self.ds.optimizer, split.world_size)
        self._passes = 0
        self.skipped_steps = 0

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, num_classes]`` in fp32, for a ``backward``. Images ``[B, C, H, W]``."""
        self._passes += 1
        self.ds.set_gradient_accumulation_boundary(self._passes == self._num_passes)
        logits: Tensor = self.ds(images)
        return logits.float()

    def forward_only(self, images: Tensor) -> Tensor:
        """Logits in fp32 past DeepSpeed's hooks: for evaluation and for ascent."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            logits: Tensor = self.module(images)
        return logits.float()

    def backward(self, loss: Tensor) -> None:
        """Add this pass's gradient; the update's gradient is the mean over all passes and ranks.

        The last pass of an update reduces the gradient over all ranks.
        """
        self.ds.backward(loss)

    def when_reducing(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called whenever gradients begin to be reduced over the ranks.

        DeepSpeed has no hook for that; these are the methods in which it happens.
        """
        if self.stage == 0:
            owner, name = self.ds, "allreduce_gradients"
        elif self.stage < 3:
            owner, name = self.ds.optimizer, "reduce_ipg_grads"
        else:
            owner = self.ds.optimizer
            name = "_DeepSpeedZeroOptimizer_Stage3__reduce_and_partition_ipg_grads"
        reduce = getattr(owner, name)

        def call_and_reduce(*args: Any, **options: Any) -> Any:
            callback()
            with record_function("reduce"):
                return reduce(*args, **options)

        setattr(owner, name, call_and_reduce)

    def step(self, lr: float) -> bool:
        """Update the weights; False if the gradient was not finite and the step was skipped."""
        for group in self.ds.optimizer.param_groups:
            group["lr"] = lr
        self._passes = 0
        if self.stage == 0 and not self._gradient_is_finite():
            self.ds.optimizer.zero_grad()
            applied = False
        else:
            self.ds.step()
            applied = self.ds.was_step_applied()
        self.weights.stepped(applied)
        self.skipped_steps += not applied
        return applied

    def _gradient_is_finite(self) -> bool:
        """Stage 0 in fp32 would apply any gradient. All ranks hold the same, and so agree."""
        grads = [p.grad for p in self.trained.values() if p.grad is not None]
        return bool(torch.stack(torch._foreach_norm(grads)).norm().isfinite())

    def optimizer_state(self, *, keep: bool) -> dict[str, dict[str, Tensor]]:
        """Whole optimizer state by parameter name, in fp32 on the CPU. A collective.

        ``keep``: whether this rank wants it; the others only take part.
        """
        inner = self._inner_optimizer()
        shards = [s for s in inner.state.values() if s]
        state: dict[str, dict[str, Tensor]] = {name: {} for name in self.trained}
        if not shards:
            return state
        for key, example in shards[0].items():
            for name, param in self.trained.items():
                if not torch.is_tensor(example):
                    continue
                if self.stage == 0:
                    value = inner.state[param][key]
                elif example.ndim == 0:
                    value = example
                else:
                    value = deepspeed.utils.safe_get_full_optimizer_state(param, key)
                if keep:
                    state[name][key] = value.detach().cpu().clone()
        return state

    def full_weights(self, *, keep: bool = True) -> dict[str, Tensor]:
        """Whole fp32 weights by name on the CPU; nothing for a rank that does not ``keep`` them.

        A collective.
        """
        self.weights.ensure_clean()
        weights = {}
        for name, param in self.params.items():
            value = deepspeed.utils.safe_get_full_fp32_param(param) if self.stage == 3 else param
            if keep:
                weights[name] = value.detach().cpu().clone()
        return weights

    def load(
        self, weights: dict[str, Tensor], optimizer_state: dict[str, dict[str, Tensor]]
    ) -> None:
        """Take over whole weights and optimizer state, whatever ranks and stage wrote them."""
        with torch.no_grad():
            for name, param in self.params.items():
                with deepspeed.zero.GatheredParameters(
                    [param], modifier_rank=0, enabled=self.stage == 3
                ):
                    param.copy_(weights[name])
        inner = self._inner_optimizer()
        keys = {key for values in optimizer_state.values() for key in values}
        if self.stage == 0:
            for name, param in self.trained.items():
                inner.state[param] = {
                    key: value.to(param.device) if value.ndim else value.clone()
                    for key, value in optimizer_state[name].items()
                }
            return
        if self.stage == 3:
            self._load_stage3(weights, optimizer_state)
            return
        # Shards of the flat fp32 weights, and in the same places those of the optimizer's state.
        self.ds.optimizer.refresh_fp32_params()
        for flat in self.ds.optimizer.single_partition_of_fp32_groups:
            example = next(iter(optimizer_state.values()), {})
            inner.state[flat] = {
                key: torch.zeros_like(flat) if example[key].ndim else example[key].clone()
                for key in keys
            }
        for name, param in self.trained.items():
            mapping = param._hp_mapping
            if mapping is None:  # all of it lies in other ranks' shards
                continue
            there, here = mapping.hp_fragment_address, mapping.lp_fragment_address
            shard = self.ds.optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
            for key, value in optimizer_state[name].items():
                if value.ndim:
                    piece = value.flatten().narrow(0, here.start, here.numel)
                    inner.state[shard][key].narrow(0, there.start, there.numel).copy_(piece)
        # DeepSpeed's first step does this; a checkpoint may be due before there is one.
        self.ds.optimizer._lazy_init_hp_params_optimizer_state()

    def _load_stage3(
        self, weights: dict[str, Tensor], optimizer_state: dict[str, dict[str, Tensor]]
    ) -> None:
        inner = self._inner_optimizer()
        example = next(iter(optimizer_state.values()), {})
        for flat in self.ds.optimizer.fp32_partitioned_groups_flat:
            inner.state[flat] = {
                key: torch.zeros_like(flat) if value.ndim else value.clone()
                for key, value in example.items()
            }
        for name, param in self.trained.items():
            deepspeed.utils.safe_set_local_fp32_param(param, self._shard(weights[name]))
            for key, state in optimizer_state[name].items():
                if state.ndim:
                    shard = self._shard(state)
                    deepspeed.utils.safe_set_local_optimizer_state(param, shard, key)

    def _shard(self, value: Tensor) -> Tensor:
        """This rank's part of a whole parameter; DeepSpeed's own setters fail on a remainder."""
        world_size = torch.distributed.get_world_size()
        flat = torch.nn.functional.pad(value.flatten(), (0, -value.numel() % world_size))
        return flat.chunk(world_size)[torch.distributed.get_rank()].to(self.device)

    def _inner_optimizer(self) -> torch.optim.Optimizer:
        optimizer = self.ds.optimizer
        inner: torch.optim.Optimizer = optimizer if self.stage == 0 else optimizer.optimizer
        return inner

    def close(self) -> None:
        """Let go of DeepSpeed's hooks and buffers, so that a process can run another engine."""
        self.ds.destroy()


def compile_nothing() -> None:
    """Keep DeepSpeed from compiling its shared-memory collective, which training does not use.

    It would do so at the first start on a CPU, for a minute, also for one process alone.
    """
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def build_optimizer(params: Iterable[nn.Parameter], settings: Settings) -> torch.optim.Optimizer:
    """torch's own SGD or AdamW; DeepSpeed shares out its state."""
    o = settings.optimizer
    trainable = [p for p in params if p.requires_grad]
    if o.name == "sgd":
        return torch.optim.SGD(
            trainable,
            lr=o.lr,
            momentum=o.momentum,
            nesterov=o.nesterov,
            weight_decay=o.weight_decay,
        )
    return torch.optim.AdamW(
        trainable, lr=o.lr, betas=o.betas, eps=o.eps, weight_decay=o.weight_decay
    )
