"""Whole weights and optimizer state of a DeepSpeed engine, for checkpoints of any rank count.

DeepSpeed's own checkpoints are bound to the number of ranks and the ZeRO stage that wrote them.
"""

from typing import Any

import deepspeed
import torch
from torch import Tensor, nn

from rwp_dist.engine.state import (
    OptimizerState,
    counter,
    load_whole_state,
    on_cpu,
    shaped_keys,
    whole_state,
)


def inner_optimizer(optimizer: Any, stage: int) -> torch.optim.Optimizer:
    """torch's optimizer inside ZeRO's."""
    inner: torch.optim.Optimizer = optimizer if stage == 0 else optimizer.optimizer
    return inner


def gather_optimizer_state(
    optimizer: Any, stage: int, trained: dict[str, nn.Parameter], *, keep: bool
) -> OptimizerState:
    """Whole state in fp32 on the CPU. A collective; ``keep``: this rank keeps the result."""
    inner = inner_optimizer(optimizer, stage)
    if stage == 0:
        return whole_state(inner, trained if keep else {})
    state: OptimizerState = {name: {} for name in trained}
    shards = [s for s in inner.state.values() if s]
    if shards and stage < 3:
        _link_states(optimizer)
    for key, example in shards[0].items() if shards else ():
        for name, param in trained.items():
            value = example
            if torch.is_tensor(example) and example.ndim:
                value = deepspeed.utils.safe_get_full_optimizer_state(param, key)
                if value is None:  # a parameter without elements
                    continue
                value = torch.atleast_1d(value)  # or it would look like a counter
            if keep:
                state[name][key] = on_cpu(value)
    return state


def load_state(
    optimizer: Any,
    stage: int,
    params: dict[str, nn.Parameter],
    weights: dict[str, Tensor],
    state: OptimizerState,
) -> None:
    """Take over whole weights and optimizer state into this rank's shards."""
    with torch.no_grad():
        for name, param in params.items():
            with deepspeed.zero.GatheredParameters([param], modifier_rank=0, enabled=stage == 3):
                param.copy_(weights[name])
    trained = {name: p for name, p in params.items() if p.requires_grad}
    if stage == 0:
        load_whole_state(optimizer, trained, state)
    elif stage == 3:
        _load_stage3(optimizer, trained, weights, state)
    else:
        _load_shards(optimizer, trained, state)


def _load_shards(
    optimizer: Any,
    trained: dict[str, nn.Parameter],
    state: OptimizerState,
) -> None:
    """Shards of the flat fp32 weights, and in the same places those of the optimizer's state."""
    inner = optimizer.optimizer
    optimizer.refresh_fp32_params()
    flats, shaped = optimizer.single_partition_of_fp32_groups, shaped_keys(state)
    for flat in flats:
        inner.state[flat] = _empty_state(inner, flat, state)
    for name, param in trained.items():
        if not param.numel():
            continue
        mapping: Any = param._hp_mapping  # type: ignore[attr-defined]
        if mapping is None:  # all of it lies in other ranks' shards
            continue
        there, here = mapping.hp_fragment_address, mapping.lp_fragment_address
        shard = flats[mapping.param_group_index]
        for key, value in state[name].items():
            if key in shaped:
                piece = value.flatten().narrow(0, here.start, here.numel)
                inner.state[shard][key].narrow(0, there.start, there.numel).copy_(piece)
    _link_states(optimizer)  # a checkpoint may be due before the next step


def _link_states(optimizer: Any) -> None:
    """Tell DeepSpeed which part of the optimizer's state belongs to which parameter.

    It does so itself in its first step, but after the first group of parameters: the state of the
    others is still empty then, and not asked for again.
    """
    optimizer._hp_optimizer_states_linked = False
    optimizer._lazy_init_hp_params_optimizer_state()


def _load_stage3(
    optimizer: Any,
    trained: dict[str, nn.Parameter],
    weights: dict[str, Tensor],
    state: OptimizerState,
) -> None:
    shaped = shaped_keys(state)
    for flat in optimizer.fp32_partitioned_groups_flat:
        optimizer.optimizer.state[flat] = _empty_state(optimizer.optimizer, flat, state)
    for name, param in trained.items():
        device = optimizer.device
        deepspeed.utils.safe_set_local_fp32_param(param, _shard(weights[name], device))
        for key, value in state[name].items():
            if key in shaped:
                shard = _shard(value, device)
                deepspeed.utils.safe_set_local_optimizer_state(param, shard, key)


def _empty_state(
    inner: torch.optim.Optimizer, flat: Tensor, state: OptimizerState
) -> dict[str, Any]:
    """Zeros for a flat shard, and counters as they were."""
    shaped = shaped_keys(state)
    return {
        key: torch.zeros_like(flat) if key in shaped else counter(inner, flat, value)
        for values in state.values()
        for key, value in values.items()
    }


def _shard(value: Tensor, device: torch.device) -> Tensor:
    """This rank's part of a whole parameter; DeepSpeed's own setters fail on a remainder."""
    world_size = torch.distributed.get_world_size()
    flat = torch.nn.functional.pad(value.flatten(), (0, -value.numel() % world_size))
    return flat.chunk(world_size)[torch.distributed.get_rank()].to(device)
