"""Optimizers by name, or by ``module:function``, from named parameters in groups."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rwp_dist.base.errors import ConfigError
from rwp_dist.base.named import is_named, load_named
from rwp_dist.config import Settings
from rwp_dist.engine.sharding import hands_out_flat_shards
from rwp_dist.perturb.rows import check_patterns, matches

Groups = list[dict[str, Any]]
"""Groups of parameters as torch's optimizers take them: ``params`` and options of their own. A
group's ``lr_factor`` multiplies the learning rate of the schedule."""


@dataclass(frozen=True)
class OptimizerEntry:
    """One optimizer."""

    build: Callable[[Groups, Settings], torch.optim.Optimizer]
    elementwise: bool = True
    """Whether an element's update depends on that element alone. ZeRO hands an optimizer flat
    shards of all parameters, where the shape of a single parameter is no longer visible."""


def _sgd(groups: Groups, settings: Settings) -> torch.optim.Optimizer:
    o = settings.optimizer
    fused = can_fuse(groups)
    return torch.optim.SGD(groups, lr=o.lr, momentum=o.momentum, nesterov=o.nesterov, fused=fused)


def _adamw(groups: Groups, settings: Settings) -> torch.optim.Optimizer:
    o = settings.optimizer
    return torch.optim.AdamW(groups, lr=o.lr, betas=o.betas, eps=o.eps, fused=can_fuse(groups))


def can_fuse(groups: Groups) -> bool:
    """Whether torch's fused kernels can update these parameters, each in one pass over its memory.

    They take real numbers on a CPU or GPU, and on a CPU go through memory without looking at
    strides: a parameter with gaps in it would be updated by the gradients of other elements.
    """
    params = [p for group in groups for p in group["params"]]
    return all(
        p.device.type in ("cpu", "cuda")
        and p.is_floating_point()
        and torch.empty_like(p).stride() == p.stride()
        for p in params
    )


OPTIMIZERS: dict[str, OptimizerEntry] = {
    "sgd": OptimizerEntry(_sgd),
    "adamw": OptimizerEntry(_adamw),
}

NOT_DECAYED = ("ndim<2", "*class_token*", "*cls_token*", "*pos_embed*", "*position_bias*")
"""Parameters of a transformer that are not decayed unless ``optimizer.no_decay`` says otherwise:
norms, biases, tokens and position embeddings."""


def build_optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """The optimizer of all trainable parameters.

    Raises:
        ConfigError: there is no such optimizer, or ZeRO would hand it what it cannot work with.
    """
    name = settings.optimizer.name
    entry = _find_entry(name)
    if not entry.elementwise and hands_out_flat_shards(settings):
        raise ConfigError(
            f"{name} looks at whole parameters, and ZeRO hands it flat shards of them",
            key="optimizer.name",
            cure="set deepspeed.zero_stage to 0",
        )
    return entry.build(group_parameters(model, settings), settings)


def is_elementwise(settings: Settings) -> bool:
    """Whether the optimizer can work on flat shards of all parameters, which ZeRO hands it.

    Raises:
        ConfigError: there is no such optimizer.
    """
    return _find_entry(settings.optimizer.name).elementwise


def _find_entry(name: str) -> OptimizerEntry:
    if is_named(name):
        return _entry_of(load_named(name, key="optimizer.name"))
    if name not in OPTIMIZERS:
        near = difflib.get_close_matches(name, OPTIMIZERS, n=1)
        known = f"choose from {', '.join(OPTIMIZERS)}, or name one of yours as module:function"
        raise ConfigError(
            f"there is no optimizer {name!r}",
            key="optimizer.name",
            cure=f"write {near[0]}" if near else known,
        )
    return OPTIMIZERS[name]


def _entry_of(function: Callable[..., torch.optim.Optimizer]) -> OptimizerEntry:
    """The user's ``function(groups, lr=..., **optimizer.options)``.

    ``function.elementwise = True`` says that ZeRO may hand it flat shards.
    """

    def build(groups: Groups, settings: Settings) -> torch.optim.Optimizer:
        return function(groups, lr=settings.optimizer.lr, **settings.optimizer.options)

    return OptimizerEntry(build, getattr(function, "elementwise", False))


def group_parameters(model: nn.Module, settings: Settings) -> Groups:
    """Trainable parameters in two groups, those that are decayed first; empty groups are left out.

    Raises:
        ConfigError: a pattern of ``optimizer.no_decay`` names no parameter.
    """
    patterns = settings.optimizer.no_decay
    if patterns is None:
        patterns = NOT_DECAYED if _is_transformer(model) else ()
    else:
        names = [name for name, _ in model.named_parameters()]
        check_patterns(names, patterns, key="optimizer.no_decay")
    groups: dict[float, list[nn.Parameter]] = {settings.optimizer.weight_decay: [], 0.0: []}
    for name, param in model.named_parameters():
        if param.requires_grad:
            decays = not matches(name, param.ndim, patterns)
            groups[settings.optimizer.weight_decay if decays else 0.0].append(param)
    return [{"params": ps, "weight_decay": decay} for decay, ps in groups.items() if ps]


def _is_transformer(model: nn.Module) -> bool:
    return any("attention" in type(module).__name__.lower() for module in model.modules())
