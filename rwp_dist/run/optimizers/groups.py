"""Groups of parameters: what is decayed, and how fast each learns, decided by their names."""

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from rwp_dist.config import Settings
from rwp_dist.perturb.rows import check_patterns, matches
from rwp_dist.run.optimizers.layers import number_layers

Groups = list[dict[str, Any]]
"""Groups of parameters as torch's optimizers take them: ``params`` and options of their own. A
group's ``lr_factor`` multiplies the learning rate of the schedule."""

NOT_DECAYED = ("ndim<2", "*_token", "*_tokens", "*pos_embed*", "*position_bias*")
"""Parameters of a transformer that are not decayed unless ``optimizer.no_decay`` says otherwise:
norms, biases, tokens and position embeddings. Patterns of tokens end there, because layers have
names such as ``mlp_tokens.fc1.weight`` (MLP-Mixer) and ``blocks_token_only`` (CaiT)."""

ADAPT_BY_LAYER = ("lamb", "lars")
"""Optimizers that leave out the same parameters of every network, as is usual: they neither decay
them nor scale their updates by their norms."""


def group_parameters(model: nn.Module, settings: Settings) -> Groups:
    """Trainable parameters in groups of one decay and one ``lr_factor``; decayed ones come first.

    A decay of 0 makes the same groups as any other: a run may change it on its way.

    Raises:
        ConfigError: a pattern of ``optimizer.no_decay`` or ``optimizer.lr_factors`` names no
            parameter, or the layers of the network are not known and ``optimizer.layer_decay``
            needs them.
    """
    o = settings.optimizer
    names = [name for name, _ in model.named_parameters()]
    check_patterns(names, o.no_decay or (), key="optimizer.no_decay")
    check_patterns(names, tuple(o.lr_factors), key="optimizer.lr_factors")
    not_decayed, by_depth = _not_decayed(model, settings), _by_depth(model, settings)
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, param in model.named_parameters():
        if param.requires_grad:
            decayed = not matches(name, param.ndim, not_decayed)
            factor = _factor(name, param.ndim, o.lr_factors) * by_depth.get(name, 1.0)
            groups.setdefault((decayed, factor), []).append(param)
    return [
        {"params": groups[decayed, factor], "weight_decay": o.weight_decay if decayed else 0.0}
        | ({"lr_factor": factor} if factor != 1.0 else {})
        | ({"always_adapt": decayed} if o.name in ADAPT_BY_LAYER else {})
        for decayed, factor in sorted(groups, key=lambda group: not group[0])
    ]


def _not_decayed(model: nn.Module, settings: Settings) -> tuple[str, ...]:
    """Patterns of the parameters that are not decayed."""
    o = settings.optimizer
    if o.no_decay is not None:
        return o.no_decay
    return NOT_DECAYED if o.name in ADAPT_BY_LAYER or _is_transformer(model) else ()


def _is_transformer(model: nn.Module) -> bool:
    return any("attention" in type(module).__name__.lower() for module in model.modules())


def _factor(name: str, ndim: int, factors: Mapping[str, float]) -> float:
    """The product of the factors of all patterns that name a parameter."""
    return math.prod(factors[p] for p in sorted(factors) if matches(name, ndim, (p,)))


def _by_depth(model: nn.Module, settings: Settings) -> dict[str, float]:
    """Factor of each parameter by its layer; empty if all layers learn alike.

    Source: ELECTRA (arXiv 2003.10555); in vision since BEiT (arXiv 2106.08254).
    """
    decay = settings.optimizer.layer_decay
    if decay == 1.0:
        return {}
    layers = number_layers(model, settings.model.name)
    head = max(layers.values())
    return {name: decay ** (head - layer) for name, layer in layers.items()}
