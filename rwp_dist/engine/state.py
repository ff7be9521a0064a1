"""Whole optimizer state by parameter name, for checkpoints of any engine and rank count."""

from typing import Any

import torch
from torch import Tensor, nn

OptimizerState = dict[str, dict[str, Any]]
"""State of each parameter by name: ``{"conv1.weight": {"momentum_buffer": ...}}``. Values are
tensors on the CPU, or numbers."""

OF_SETTINGS = {
    *("params", "lr", "lr_factor", "weight_decay", "foreach", "fused"),
    *("momentum", "nesterov", "betas", "eps", "trust_coeff", "always_adapt"),
}
"""What a group of parameters has from the settings and the machine; everything else is the
optimizer's state."""


def whole_state(
    optimizer: torch.optim.Optimizer, trained: dict[str, nn.Parameter]
) -> OptimizerState:
    """State of an optimizer that holds whole parameters."""
    return {
        name: {key: on_cpu(value) for key, value in optimizer.state.get(param, {}).items()}
        for name, param in trained.items()
    }


def load_whole_state(
    optimizer: torch.optim.Optimizer, trained: dict[str, nn.Parameter], state: OptimizerState
) -> None:
    """Take over what ``whole_state`` gave, or what was gathered from shards."""
    shaped = shaped_keys(state)
    for name, param in trained.items():
        optimizer.state[param] = {
            key: _for(param, value) if key in shaped else counter(optimizer, param, value)
            for key, value in state[name].items()
        }


def _for(param: nn.Parameter, value: Tensor) -> Tensor:
    """The value of a parameter where that lies; without dimensions if it has none.

    In memory as the parameter is, because fused optimizers go through both side by side.
    """
    if value.shape != param.shape and param.ndim:
        return value.to(param.device)
    return torch.empty_like(param, dtype=value.dtype).copy_(value.view(param.shape))


def counter(optimizer: torch.optim.Optimizer, param: Tensor, value: Any) -> Any:
    """A copy of a counter of a parameter: fused optimizers want it where the parameter lies."""
    value = on_cpu(value)
    fused = any(group.get("fused") for group in optimizer.param_groups)
    return value.to(param.device) if fused and torch.is_tensor(value) else value


def group_state(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """What an optimizer keeps in its groups beside what the settings say, such as a counter."""
    return [
        {k: on_cpu(v) for k, v in group.items() if k not in OF_SETTINGS}
        for group in optimizer.param_groups
    ]


def load_group_state(optimizer: torch.optim.Optimizer, groups: list[dict[str, Any]]) -> None:
    """Take over what ``group_state`` gave.

    Of another number of groups, what all of them have alike: an earlier version had fewer where
    ``optimizer.weight_decay`` is 0.
    """
    if len(groups) != len(optimizer.param_groups):
        first, *others = groups
        alike = {k: v for k, v in first.items() if all(k in o and o[k] == v for o in others)}
        groups = [alike] * len(optimizer.param_groups)
    for group, saved in zip(optimizer.param_groups, groups, strict=True):
        group.update({k: on_cpu(v) for k, v in saved.items() if k not in OF_SETTINGS})


def on_cpu(value: Any) -> Any:
    """A copy of a tensor on the CPU; a number as it is."""
    return value.detach().cpu().clone() if torch.is_tensor(value) else value


def shaped_keys(state: OptimizerState) -> set[str]:
    """Keys of what belongs to the elements of a parameter; the others are counters.

    Other parameters tell, because a value of one without dimensions looks like a counter.
    """
    return {
        key
        for values in state.values()
        for key, value in values.items()
        if torch.is_tensor(value) and value.ndim
    }
