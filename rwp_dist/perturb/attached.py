"""``Perturbed.attach``: perturbs in a training loop in which nothing else changes."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rwp_dist.base.errors import ConfigError
from rwp_dist.perturb.methods import Method
from rwp_dist.perturb.rows import Rows
from rwp_dist.perturb.slots import Slot, mean_loss_weight


@dataclass
class Counts:
    """What happened so far, on this rank."""

    steps: int = 0
    skipped_steps: int = 0
    perturbed_passes: int = 0


class Passes(Protocol):
    """What it needs of ``Perturbed``."""

    counts: Counts
    method: Method
    rows: list[Rows]
    slots: list[list[Slot]]
    my_slots: list[Slot]
    scaler: torch.amp.GradScaler | None

    def __call__(
        self, step: int, micro_batch: int = 0, *, grad_scale: float | None = None
    ) -> AbstractContextManager[None]:
        """Around forward and backward of one pass."""

    def end_step(self, applied: bool | None = None) -> None:
        """The optimizer's step is over."""

    def abandon_update(self) -> None:
        """The update that has begun gets no more passes."""


class Attached:
    """Begins a pass at every training forward, and ends it where its gradient is complete.

    A pass ends with the next forward, evaluation, ``state_dict`` or optimizer's step. So the
    weights stay perturbed during backward, whoever calls it.
    """

    _model: nn.Module | None = None

    def __init__(self, noisy: Passes, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._noisy, self._model = noisy, model
        self.step = 0
        """Updates begun so far, which is part of the noise's key."""
        self._pass: AbstractContextManager[None] | None = None
        self._taken = 0
        """Passes of this update that have begun."""
        self._stepped = False
        """Whether the optimizer has stepped, and ``end_step`` was not called yet."""
        self._factor = 1.0
        self._checked_ranks = False
        self._said: set[str] = set()
        self._params = self._signature()
        self._at_end: weakref.finalize | None = None
        if any(slot.perturbed for slot in noisy.my_slots):
            self._at_end = weakref.finalize(self, _say_if_never_perturbed, noisy.counts)
        self._hooks = [
            model.register_forward_pre_hook(self._before_forward),
            model.register_state_dict_pre_hook(self._before_state_dict),
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
            *self._weigh_gradients(),
        ]

    # A copy of the network, such as an average of its weights, has a copy of the hooks. They find
    # that it is not their network, and do nothing.

    def __deepcopy__(self, memo: dict[int, Any]) -> Attached:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Attached.__new__, (Attached,)

    def _weigh_gradients(self) -> list[Any]:
        """Hooks that weigh gradients as the method weighs losses, where that is another factor.

        They run before DistributedDataParallel reduces gradients, and the user's loss stays as it
        is: the mean over a micro-batch, divided by the number of micro-batches.
        """
        slots = self._noisy.slots
        factors = [mean_loss_weight(slot, slots) * len(row) for row in slots for slot in row]
        if all(factor == 1.0 for factor in factors):
            return []

        def weigh(grad: Tensor) -> Tensor:
            return grad * self._factor

        return [p.register_hook(weigh) for p in self._parameters() if p.requires_grad]

    def _parameters(self) -> Iterator[nn.Parameter]:
        assert self._model is not None
        return self._model.parameters()

    @torch.compiler.disable
    def _before_forward(self, module: nn.Module, args: Any) -> None:
        if module is not self._model:
            return
        if torch._C._current_graph_task_id() != -1:
            return  # activation checkpointing repeats a forward inside the backward pass
        self.restore()
        if not (module.training and torch.is_grad_enabled()):
            return
        noisy, count = self._noisy, len(self._noisy.my_slots)
        if self._taken == count:
            self._forget_update()
        if self._taken == 0:
            self.end_step()
            self._check_parameters()
        loss_scale = self._loss_scale()
        slot = noisy.my_slots[self._taken]
        self._factor = mean_loss_weight(slot, noisy.slots) * count
        self._pass = noisy(self.step, self._taken, grad_scale=count / loss_scale)
        self._taken += 1
        self._pass.__enter__()

    def _loss_scale(self) -> float:
        """Factor of the loss by loss scaling.

        Raises:
            ConfigError: it cannot be known, and the method needs the gradient's true size.
        """
        noisy = self._noisy
        if noisy.scaler is not None:
            return float(noisy.scaler.get_scale())
        device = noisy.rows[0].param.device.type if noisy.rows else "cpu"
        if (
            noisy.method.options.get("adaptive")
            and torch.is_autocast_enabled(device)
            and torch.get_autocast_dtype(device) == torch.float16
        ):
            raise ConfigError(
                "this method needs the true size of gradients, and fp16 scales the loss",
                key="scaler",
                cure="give Perturbed the loop's GradScaler, or choose rwp or m-rwp",
            )
        return 1.0

    def _forget_update(self) -> None:
        """More passes than an update has, and no step: it was skipped, or the number is wrong."""
        grads = [p.grad for p in self._parameters() if p.grad is not None]
        # Asks the device, but only where a step was skipped.
        if any(bool(grad.any()) for grad in grads):
            self._say(
                "passes",
                f"an update takes more than {len(self._noisy.my_slots)} passes of a rank; give "
                "attach(optimizer, micro_batches=...) their number",
            )
        self._taken, self._stepped = 0, False
        self._noisy.end_step(applied=False)
        self.step += 1

    def _before_state_dict(self, module: nn.Module, prefix: str, keep_vars: bool) -> None:
        if module is self._model:
            self.restore()

    def _before_step(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._end_passes()
            return None

        def clean_afterwards() -> Any:
            """Forward and backward happen in here, so the weights are clean when it returns."""
            try:
                return closure()
            finally:
                self._end_passes()

        if len(args) > 1:
            return (args[0], clean_afterwards, *args[2:]), kwargs
        return args, {**kwargs, "closure": clean_afterwards}

    def _end_passes(self) -> None:
        """The gradient is complete: bring the clean weights back, and check the passes."""
        self.restore()
        count = len(self._noisy.my_slots)
        if self._taken == 0:
            self._say(
                "forward",
                "the optimizer steps, and the network that Perturbed was given has not been called "
                "by its forward in training mode; give Perturbed the module that is called",
            )
        elif self._taken < count:
            self._say(
                "passes",
                f"an update took {self._taken} of {count} passes of a rank; give "
                "attach(optimizer, micro_batches=...) their number",
            )
            self._noisy.abandon_update()

    def _after_step(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if self._taken:
            self._stepped, self._taken = True, 0
            self.step += 1
            if len(self._noisy.slots) > 1 and not self._checked_ranks:
                self._check_ranks()

    def _check_ranks(self) -> None:
        """Say it if ranks train apart: each would keep its role, and nothing be averaged. Once."""
        self._checked_ranks = True
        total = torch.stack([p.detach().double().sum() for p in self._parameters()]).sum()
        ends = torch.stack([total, -total])
        dist.all_reduce(ends, dist.ReduceOp.MAX)
        if float(ends.sum()) != 0:
            self._say(
                "ranks",
                "after the first step the ranks have other weights, so they train apart; wrap the "
                "network in DistributedDataParallel, or see why the framework did not",
            )

    def end_step(self) -> None:
        """Tell ``Perturbed`` of the last step; a GradScaler has adapted its scale by now."""
        if self._stepped:
            self._stepped = False
            self._noisy.end_step()

    def restore(self) -> None:
        """End the pass that is under way, if there is one: the weights are clean afterwards."""
        if self._pass is not None:
            ended, self._pass = self._pass, None
            ended.__exit__(None, None, None)

    def _signature(self) -> list[tuple[int, bool]]:
        return [(id(p), p.requires_grad) for p in self._parameters()]

    def _check_parameters(self) -> None:
        if self._signature() != self._params:
            self._params = self._signature()
            self._say(
                "parameters",
                "parameters were added, replaced or frozen since; noise is drawn for those that "
                "there were: call close() and attach a new Perturbed",
            )

    def _say(self, subject: str, sentence: str) -> None:
        """Once for each subject."""
        if subject not in self._said:
            self._said.add(subject)
            warnings.warn(f"Perturbed: {sentence}.", stacklevel=2)

    def remove(self) -> None:
        """Bring the clean weights back and leave no hook behind."""
        self.restore()
        for hook in self._hooks:
            hook.remove()
        if self._at_end is not None:
            self._at_end()


def _say_if_never_perturbed(counts: Counts) -> None:
    """When the loop or the program ends: a schedule that never begins would go unnoticed."""
    if counts.steps and not counts.perturbed_passes:
        warnings.warn(
            f"Perturbed: no pass was perturbed in {counts.steps} steps, because the strength was 0 "
            "in each; give a sigma (or rho) that is above 0 in steps that the loop reaches.",
            stacklevel=2,
        )


def find_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer that steps, out of the wrappers of Accelerate and Lightning.

    Raises:
        ConfigError: it is none of torch's.
    """
    inner = getattr(optimizer, "optimizer", None)
    if isinstance(inner, torch.optim.Optimizer):
        return find_optimizer(inner)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ConfigError(
            f"{type(optimizer).__name__} is no optimizer of torch",
            key="optimizer",
            cure="give attach the torch.optim.Optimizer whose step updates the weights",
        )
    return optimizer
