"""``Perturbed.attach``: perturbs in a training loop in which nothing else changes.

``torch.compiler.disable`` takes seconds to import, so only ``attach`` imports this module.
"""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rwp_dist.base.errors import ConfigError
from rwp_dist.perturb.counts import Counts
from rwp_dist.perturb.methods import Method
from rwp_dist.perturb.rows import Rows
from rwp_dist.perturb.slots import Slot, mean_loss_weight
from rwp_dist.perturb.weights import PerturbedCopy


class Passes(Protocol):
    """What it needs of ``Perturbed``."""

    counts: Counts
    method: Method
    rows: list[Rows]
    slots: Sequence[Sequence[Slot]]
    my_slots: Sequence[Slot]

    def __call__(
        self, step: int, micro_batch: int = 0, *, grad_scale: float | None = None
    ) -> AbstractContextManager[None]:
        """Around forward and backward of one pass."""

    def end_step(self, applied: bool | None = None) -> None:
        """The optimizer's step is over."""

    def abandon_update(self) -> None:
        """The update that has begun gets no more passes."""

    def close(self) -> None:
        """Release threads and hooks."""


class _DroppedError(Exception):
    """Ends a pass as one that failed."""


class Attached:
    """Begins a pass at a training forward, and ends it where its gradient is complete.

    That is at the next training forward or the optimizer's step, so the weights stay perturbed
    during backward, whoever calls it. A forward of which no gradient has come yet belongs to the
    same pass as the next: two views of one batch, or a loss that was thrown away. An evaluation
    and a ``state_dict`` in the middle of a pass see the clean weights, and the pass goes on.
    """

    _model: nn.Module | None = None

    def __init__(
        self,
        noisy: Passes,
        model: nn.Module,
        weights: PerturbedCopy,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler | None,
    ) -> None:
        self._noisy, self._model, self._weights = noisy, model, weights
        self._optimizer, self._scaler = optimizer, scaler
        self.step = 0
        """Updates begun so far, which is part of the noise's key."""
        self.opening = False
        """Whether a pass is being begun here, and not by a block of the user's."""
        self._pass: AbstractContextManager[None] | None = None
        self._has_gradient = False
        """Whether a gradient of the present pass has come."""
        self._taken = 0
        """Passes of this update that have begun."""
        self._stepped = False
        """Whether the optimizer has stepped, and ``end_step`` was not called yet."""
        self._evaluation: Any = None
        """Hook at the end of an evaluation in the middle of a pass."""
        self._factor = 1.0
        self._scale = 1.0
        """Factor of the loss by loss scaling."""
        adaptive = noisy.method.options.get("adaptive", False)
        # A fused optimizer skips a step by itself; only the scale tells of it.
        fused = getattr(optimizer, "_step_supports_amp_scaling", False)
        self._reads_scale = scaler is not None and (adaptive or fused)
        self._checked_ranks = False
        self._said: set[str] = set()
        self._params = self._signature()
        self._at_end: weakref.finalize | None = None
        if any(slot.perturbed for slot in noisy.my_slots):
            self._at_end = weakref.finalize(self, _say_if_never_perturbed, noisy.counts)
        self._hooks: list[Any] = [
            model.register_forward_pre_hook(self._before_forward),
            model.register_state_dict_pre_hook(self._before_state_dict),
            # torch writes to the hook, and cannot write to a method.
            model.register_state_dict_post_hook(partial(Attached._after_state_dict, self)),
            model.register_load_state_dict_pre_hook(self._before_load),
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
            *(p.register_hook(self._on_gradient) for p in model.parameters() if p.requires_grad),
        ]
        if adaptive and scaler is None:
            inner = _owner(model, noisy.rows[0].param)
            self._hooks.append(inner.register_forward_pre_hook(_refuse_unknown_scale))
        self._scaler_step = None if scaler is None else self._watch_steps_of(scaler)

    # A copy of the network, such as an average of its weights, has a copy of the hooks. They find
    # that it is not their network, and do nothing.

    def __reduce__(self) -> tuple[Any, ...]:
        return Attached.__new__, (Attached,)

    def _parameters(self) -> Iterator[nn.Parameter]:
        assert self._model is not None
        return self._model.parameters()

    # --- passes ---

    @torch.compiler.disable
    def _before_forward(self, module: nn.Module, args: Any) -> None:
        if module is not self._model:
            return
        if torch._C._current_graph_task_id() != -1:
            return  # activation checkpointing repeats a forward inside the backward pass
        training = module.training and torch.is_grad_enabled()
        if self._pass is not None:
            if not training:
                self._suspend()
                if self._evaluation is None:
                    self._evaluation = module.register_forward_hook(self._after_evaluation)
                return
            self._resume()
            if not self._has_gradient:
                return
            self._end_pass()
        if training:
            self._begin_pass()

    def _after_evaluation(self, module: nn.Module, args: Any, output: Any) -> None:
        if module is self._model and self._evaluation is not None:
            self._evaluation.remove()
            self._evaluation = None
            self._resume()

    def _begin_pass(self) -> None:
        noisy, count = self._noisy, len(self._noisy.my_slots)
        if self._taken == count:
            self._forget_update()
        if self._taken == 0:
            self.end_step()
            self._check_parameters()
            if self._reads_scale and self._scaler is not None:
                self._scale = float(self._scaler.get_scale())
        slot = noisy.my_slots[self._taken]
        self._factor = mean_loss_weight(slot, noisy.slots) * count
        begun = noisy(self.step, self._taken, grad_scale=count / self._scale)
        self.opening = True
        try:
            begun.__enter__()
        finally:
            self.opening = False
        self._pass, self._has_gradient = begun, False
        self._taken += 1

    def _on_gradient(self, grad: Tensor) -> Tensor | None:
        """A pass has a gradient; weigh it as the method weighs losses.

        It runs before DistributedDataParallel reduces gradients, and the user's loss stays as it
        is: the mean over a micro-batch, divided by the number of micro-batches.
        """
        self._has_gradient = True
        return grad * self._factor if self._factor != 1.0 else None

    def _end_pass(self) -> None:
        """End the pass that is under way, if there is one: the weights are clean afterwards."""
        self._resume()
        if self._pass is not None:
            ended, self._pass = self._pass, None
            ended.__exit__(None, None, None)

    def drop_update(self) -> None:
        """Forget the passes of this update, as if they had failed: the weights are clean."""
        self.end_step()
        self._resume()
        if self._pass is not None:
            ended, self._pass = self._pass, None
            with suppress(_DroppedError):
                ended.__exit__(_DroppedError, _DroppedError(), None)
        self._taken = 0
        self._noisy.abandon_update()

    def settle(self) -> None:
        """Count the last step, and end the pass that is under way. A collective."""
        self.end_step()
        self._end_pass()

    def _suspend(self) -> None:
        if not self._weights.suspended:
            self._weights.exchange()

    def _resume(self) -> None:
        if self._weights.suspended:
            self._weights.exchange()

    def _forget_update(self) -> None:
        """More passes than an update has, and no step: it was skipped, or the number is wrong."""
        grads = [p.grad for p in self._parameters() if p.grad is not None]
        # Asks the device, but only where a step was skipped.
        if any(bool(g.any()) for g in grads) and all(bool(g.isfinite().all()) for g in grads):
            count = len(self._noisy.my_slots)
            passes = "one pass" if count == 1 else f"{count} passes"
            self._say(
                "passes",
                f"an update takes more than {passes} of a rank; give "
                "attach(optimizer, micro_batches=...) their number",
            )
        self._skip_update()

    def _skip_update(self) -> None:
        self._taken = 0
        self._noisy.end_step(applied=False)
        self.step += 1

    # --- state ---

    def _before_state_dict(self, module: nn.Module, prefix: str, keep_vars: bool) -> None:
        if module is self._model and self._pass is not None:
            self._suspend()

    def _after_state_dict(self, module: nn.Module, *args: Any) -> None:
        if module is self._model:
            self._resume()

    def _before_load(self, module: nn.Module, *args: Any) -> None:
        if module is self._model:
            self.drop_update()

    # --- steps ---

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

    def _watch_steps_of(self, scaler: torch.amp.GradScaler) -> Any:
        """Have the weights clean after ``scaler.step`` even where it skips the optimizer's."""
        step = scaler.step

        def clean_afterwards(optimizer: Any, *args: Any, **kwargs: Any) -> Any:
            if self._optimizer not in (optimizer, getattr(optimizer, "optimizer", None)):
                return step(optimizer, *args, **kwargs)
            self._end_passes()
            result = step(optimizer, *args, **kwargs)
            if self._taken:
                self._skip_update()
            return result

        setattr(scaler, "step", clean_afterwards)  # noqa: B010, as torch's schedulers do
        return step

    def _end_passes(self) -> None:
        """The gradient is complete: bring the clean weights back, and check the passes."""
        self._end_pass()
        count = len(self._noisy.my_slots)
        if self._taken == 0:
            self._say(
                "forward",
                "the optimizer steps, and the network that Perturbed was given has not been called "
                "by its forward in training mode; give Perturbed the module that is called",
            )
        elif self._taken < count:
            clean = not any(slot.perturbed for slot in self._noisy.my_slots[: self._taken])
            left_out = " and none was perturbed" if clean else ""
            self._say(
                "passes",
                f"an update took {self._taken} of {count} passes of a rank{left_out}; unless it is "
                f"the last of an epoch, call forward and backward {count} times before each step, "
                "each with a part of the batch, or say another micro_batches",
            )
            self._noisy.abandon_update()

    def _after_step(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if not self._taken:
            return
        self._taken = 0
        self.step += 1
        if self._reads_scale:
            self._stepped = True  # the scale tells later whether the step was skipped
        else:
            self._noisy.end_step(applied=True)
        if len(self._noisy.slots) > 1 and not self._checked_ranks:
            self._check_ranks()

    def end_step(self) -> None:
        """Tell ``Perturbed`` of the last step; a GradScaler has adapted its scale by now."""
        if self._stepped and self._scaler is not None:
            self._stepped = False
            self._noisy.end_step(applied=self._scaler.get_scale() >= self._scale)

    # --- what goes wrong ---

    def _check_ranks(self) -> None:
        """Say it if ranks train apart: each would keep its role, and nothing be averaged. Once."""
        self._checked_ranks = True
        total = torch.stack([p.detach().double().sum() for p in self._parameters()]).sum()
        ends = torch.stack([total, -total])
        dist.all_reduce(ends, dist.ReduceOp.MAX)
        difference = float(ends.sum())
        if math.isfinite(difference) and difference != 0:
            self._say(
                "ranks",
                "after the first step the ranks have other weights, so they train apart; wrap the "
                "network in DistributedDataParallel, or see why the framework did not",
            )

    def _signature(self) -> list[tuple[int, bool]]:
        return [(id(p), p.requires_grad) for p in self._parameters()]

    def _check_parameters(self) -> None:
        if self._signature() != self._params:
            self._params = self._signature()
            self._say(
                "parameters",
                "parameters were added, replaced, frozen or unfrozen after attach, and noise goes "
                "to the earlier ones only; call detach() and attach a new Perturbed",
            )

    def _say(self, subject: str, sentence: str) -> None:
        """Once for each subject."""
        if subject not in self._said:
            self._said.add(subject)
            warnings.warn(f"Perturbed: {sentence}.", stacklevel=2)

    def remove(self) -> None:
        """Bring the clean weights back and leave no hook behind."""
        self.drop_update()
        for hook in (*self._hooks, *([self._evaluation] if self._evaluation else [])):
            hook.remove()
        if self._scaler_step is not None:
            setattr(self._scaler, "step", self._scaler_step)  # noqa: B010
        if self._at_end is not None:
            self._at_end()

    @staticmethod
    def to(model: nn.Module) -> list[Passes]:
        """Those that a network is attached to already, as in a notebook's cell that runs twice."""
        owners = [getattr(hook, "__self__", None) for hook in model._forward_pre_hooks.values()]
        return [o._noisy for o in owners if isinstance(o, Attached) and o._model is model]


def _owner(model: nn.Module, param: nn.Parameter) -> nn.Module:
    """The module that has a parameter itself."""
    return next(m for m in model.modules() if any(p is param for p in m.parameters(recurse=False)))


@torch.compiler.disable
def _refuse_unknown_scale(module: nn.Module, args: Any) -> None:
    """fp16 scales the loss, and gradients are ``scale`` times as large as they seem.

    Asked of an inner module, because autocast may begin inside the network's forward.

    Raises:
        ConfigError: inside an fp16 autocast, in training.
    """
    if not (module.training and torch.is_grad_enabled()):
        return
    device = next(module.parameters()).device.type
    if torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16:
        raise ConfigError(
            "this method needs the true size of gradients, and fp16 scales the loss",
            key="scaler",
            cure="give Perturbed the loop's GradScaler, or choose rwp or m-rwp",
        )


def _say_if_never_perturbed(counts: Counts) -> None:
    """When the loop or the program ends: a schedule that never begins would go unnoticed."""
    if counts.passes_at_strength_0 and not counts.perturbed_passes:
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


def find_scaler(optimizer: Any) -> torch.amp.GradScaler | None:
    """The GradScaler of Accelerate's wrapper of an optimizer, if there is one."""
    scaler = getattr(optimizer, "scaler", None)
    return scaler if isinstance(scaler, torch.amp.GradScaler) else None


def refuse_other_parameters(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Refuse an optimizer that steps another network."""
    stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not any(id(p) in stepped for p in model.parameters()):
        raise ConfigError(
            "it has none of the network's parameters",
            key="optimizer",
            cure="give attach the optimizer that steps the network that Perturbed was given",
        )
