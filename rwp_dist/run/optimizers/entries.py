"""The table of optimizers, and the one that a run asks for."""

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
from rwp_dist.run.optimizers.groups import Groups, group_parameters
from rwp_dist.run.optimizers.muon import build_muon


@dataclass(frozen=True)
class OptimizerEntry:
    """One optimizer."""

    build: Callable[[Groups, Settings, nn.Module], torch.optim.Optimizer]
    elementwise: bool = True
    """Whether an element's update depends on that element alone. ZeRO hands an optimizer flat
    shards of all parameters, where the shape of a single parameter is no longer visible."""


def _sgd(groups: Groups, settings: Settings, model: nn.Module) -> torch.optim.Optimizer:
    o = settings.optimizer
    fused = can_fuse(groups)
    return torch.optim.SGD(groups, lr=o.lr, momentum=o.momentum, nesterov=o.nesterov, fused=fused)


def _adamw(groups: Groups, settings: Settings, model: nn.Module) -> torch.optim.Optimizer:
    o = settings.optimizer
    return torch.optim.AdamW(groups, lr=o.lr, betas=o.betas, eps=o.eps, fused=can_fuse(groups))


def _lamb(groups: Groups, settings: Settings, model: nn.Module) -> torch.optim.Optimizer:
    """LAMB (You et al., ICLR 2020, arXiv 1904.00962), with Adam's bias correction."""
    o = settings.optimizer
    return _of_timm(o.name).Lamb(
        groups,
        lr=o.lr,
        betas=o.betas,
        eps=o.eps,
        bias_correction=True,
        grad_averaging=True,
        max_grad_norm=None,  # timm's own clipping; optimizer.clip_norm is there
        trust_clip=False,
    )


def _lars(groups: Groups, settings: Settings, model: nn.Module) -> torch.optim.Optimizer:
    """LARS (You et al., 2017, arXiv 1708.03888)."""
    o = settings.optimizer
    return _of_timm(o.name).Lars(
        groups,
        lr=o.lr,
        momentum=o.momentum,
        dampening=0.0,
        nesterov=o.nesterov,
        trust_coeff=o.trust_coefficient,
        trust_clip=False,
    )


def _lion(groups: Groups, settings: Settings, model: nn.Module) -> torch.optim.Optimizer:
    """Lion (Chen et al., NeurIPS 2023, arXiv 2302.06675)."""
    o = settings.optimizer
    return _of_timm(o.name).Lion(groups, lr=o.lr, betas=o.betas)


def _of_timm(name: str) -> Any:
    """timm's optimizers, which are imported where one is asked for.

    Raises:
        ConfigError: timm is not installed.
    """
    try:
        import timm.optim
    except ImportError as error:
        raise ConfigError(
            f"{name} is one of timm's optimizers, and timm is not installed",
            key="optimizer.name",
            cure="run `pip install 'rwp-dist[timm]'`, or choose sgd or adamw",
        ) from error
    return timm.optim


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
    "lamb": OptimizerEntry(_lamb, elementwise=False),
    "lars": OptimizerEntry(_lars, elementwise=False),
    "lion": OptimizerEntry(_lion),
    "muon": OptimizerEntry(build_muon, elementwise=False),
}


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
    return entry.build(group_parameters(model, settings), settings, model)


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

    def build(groups: Groups, settings: Settings, model: nn.Module) -> torch.optim.Optimizer:
        return function(groups, lr=settings.peak_lr, **settings.optimizer.options)

    return OptimizerEntry(build, getattr(function, "elementwise", False))
