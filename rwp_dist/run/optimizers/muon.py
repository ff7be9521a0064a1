"""Muon for the matrices of hidden layers, and AdamW for the rest, as one optimizer."""

from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from rwp_dist.base.errors import ConfigError
from rwp_dist.config import Settings
from rwp_dist.engine.head import find_head
from rwp_dist.perturb.rows import matches
from rwp_dist.run.optimizers.groups import NOT_DECAYED, Groups


class MuonAndAdamW(torch.optim.Optimizer):
    """torch's Muon and AdamW, which step one after the other.

    It has the groups and the states of both.

    Sources: Jordan, 2024 (https://kellerjordan.github.io/posts/muon); Liu et al., 2025 (arXiv
    2502.16982), from whom the scale of its updates is: that of AdamW's, so that one learning rate
    and one weight decay serve both.
    """

    def __init__(self, muon: torch.optim.Optimizer, adamw: torch.optim.Optimizer | None) -> None:
        """``adamw``: None if there is nothing but matrices."""
        self._parts = [part for part in (muon, adamw) if part is not None]
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        for part in self._parts:
            part.state = self.state

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of all parameters. There is no closure."""
        for part in self._parts:
            part.step()


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """What Muon takes: trained parameters of two dimensions, but for embeddings and the head.

    Tokens and tables of positions are embeddings too.
    """
    others = [m for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)]
    head = find_head(model)
    left_out = {p for module in (*others, *([head] if head else [])) for p in module.parameters()}
    return [
        param
        for name, param in model.named_parameters()
        if param.requires_grad
        and param.ndim == 2
        and param not in left_out
        and not matches(name, param.ndim, NOT_DECAYED)
    ]


def build_muon(groups: Groups, settings: Settings, model: nn.Module) -> torch.optim.Optimizer:
    """Muon and AdamW for groups of parameters.

    Raises:
        ConfigError: torch has no Muon, or what is trained are convolutions for the most part, or
            no matrices at all.
    """
    o = settings.optimizer
    if not hasattr(torch.optim, "Muon"):
        raise ConfigError(
            f"torch {torch.__version__} has no Muon",
            key="optimizer.name",
            cure="install torch 2.9 or newer, or choose adamw",
        )
    matrices = set(hidden_matrices(model))
    _refuse_convolutions(model, matrices, settings)
    hidden, rest = _only(groups, matrices, inside=True), _only(groups, matrices, inside=False)
    muon = torch.optim.Muon(
        hidden,
        lr=o.lr,
        momentum=o.momentum,
        nesterov=o.nesterov,
        adjust_lr_fn="match_rms_adamw",
    )
    adamw = torch.optim.AdamW(rest, lr=o.lr, betas=o.betas, eps=o.eps) if rest else None
    return MuonAndAdamW(muon, adamw)


def _only(groups: Groups, params: set[nn.Parameter], *, inside: bool) -> Groups:
    """The groups with those of their parameters that are among ``params``, or are not."""
    kept = [
        group | {"params": [p for p in group["params"] if (p in params) is inside]}
        for group in groups
    ]
    return [group for group in kept if group["params"]]


def _refuse_convolutions(model: nn.Module, matrices: set[nn.Parameter], settings: Settings) -> None:
    convolutions = [m.weight for m in model.modules() if isinstance(m, _ConvNd)]
    trained = sum(weight.numel() for weight in convolutions if weight.requires_grad)
    if sum(p.numel() for p in matrices) > trained:
        return
    found = "are convolutions for the most part" if matrices else "have none in hidden layers"
    raise ConfigError(
        f"muon takes matrices, and the trained weights of {settings.model.name} {found}",
        key="optimizer.name",
        cure="choose sgd, adamw or lamb, or train a transformer",
    )
