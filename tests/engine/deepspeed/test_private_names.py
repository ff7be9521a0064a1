"""Every name of DeepSpeed that the engine uses and DeepSpeed does not promise to keep.

Each is tested by what it does, with DeepSpeed alone. A new release of DeepSpeed that changes one
of them fails here first, and says which.
"""

import ast
from pathlib import Path

import pytest
import torch
from support.ranks import run_ranks
from torch import nn

from rwp_dist.config import load_settings, split_batch

ENGINE = Path(__file__).parents[3] / "rwp_dist" / "engine" / "deepspeed"

PRIVATE = {
    # optimizer of ZeRO 1 and 2
    "update_lp_params",
    "refresh_fp32_params",
    "single_partition_of_fp32_groups",
    "_hp_optimizer_states_linked",
    "_lazy_init_hp_params_optimizer_state",
    # parameters of ZeRO 1 and 2
    "_hp_mapping",
    "hp_fragment_address",
    "lp_fragment_address",
    "param_group_index",
    # optimizer of ZeRO 3
    "parameter_offload",
    "partition_all_parameters",
    "fp16_partitioned_groups_flat",
    "fp32_partitioned_groups_flat",
    # all
    "__compatible_ops__",
    "_broadcast_model",
}
PUBLIC = {
    *("module", "optimizer", "step", "backward", "destroy"),  # the engine, documented
    *("was_step_applied", "set_gradient_accumulation_boundary", "get_global_grad_norm"),
    *("state", "param_groups", "zero_grad", "device"),  # torch.optim.Optimizer's, or ZeRO's same
}
DEEPSPEEDS = {
    *("ds", "optimizer", "_optimizer", "mapping", "parameter_offload", "ops", "param"),
    "DeepSpeedEngine",
}
"""What objects of DeepSpeed, or those that it adds attributes to, are called in the engine."""
TENSORS = {
    *("add_", "copy_", "data", "detach", "device", "dtype", "flatten"),
    *("grad", "mul_", "ndim", "numel", "requires_grad", "shape"),
}


def used_names() -> set[str]:
    """Attributes of DeepSpeed's objects in the code of the engine."""
    found = set()
    for path in ENGINE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                owner = ast.unparse(node.value)
                if owner.rpartition(".")[2] in DEEPSPEEDS and not owner.startswith("settings."):
                    found.add(node.attr)
    return found - PUBLIC - TENSORS


def test_the_list_has_exactly_the_private_names_that_the_engine_uses() -> None:
    assert used_names() == PRIVATE


def initialize(stage: int, seed: int = 0):
    """A DeepSpeed engine with the configuration of this project, and its clean weights."""
    import deepspeed

    from rwp_dist.engine.deepspeed.config import deepspeed_config
    from rwp_dist.engine.deepspeed.engine import compile_nothing

    compile_nothing()
    settings = load_settings(
        None, ["method.name=sgd", "batch.global=4", f"deepspeed.zero_stage={stage}"]
    )
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    weights = [p.detach().clone() for p in model.parameters()]
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        config=deepspeed_config(settings, split_batch(settings, 2)),
        dist_init_required=False,
    )
    return engine, weights


def shards_of_zero_1_and_2(stage: int) -> None:
    import deepspeed

    engine, clean = initialize(stage)
    zero, params = engine.optimizer, list(engine.module.parameters())

    with torch.no_grad():
        for param in params:
            param.add_(1.0)
    zero.update_lp_params()
    for param, weight in zip(params, clean, strict=True):
        assert torch.equal(param, weight), "update_lp_params brings the clean weights back"

    with torch.no_grad():
        for param in params:
            param.mul_(3.0)
    zero.refresh_fp32_params()
    flats = zero.single_partition_of_fp32_groups
    num_mapped = 0
    for param in params:
        mapping = param._hp_mapping
        if mapping is None:
            continue
        num_mapped += 1
        there, here = mapping.hp_fragment_address, mapping.lp_fragment_address
        shard = flats[mapping.param_group_index].narrow(0, there.start, there.numel)
        piece = param.detach().flatten().narrow(0, here.start, here.numel)
        assert torch.equal(shard, piece), "refresh_fp32_params takes the weights over"
    assert num_mapped

    for flat in flats:
        zero.optimizer.state[flat] = {"momentum_buffer": flat.detach().clone()}
    assert zero._hp_optimizer_states_linked is False
    zero._lazy_init_hp_params_optimizer_state()
    assert zero._hp_optimizer_states_linked is True
    for param in params:
        state = deepspeed.utils.safe_get_full_optimizer_state(param, "momentum_buffer")
        assert torch.equal(state, param), "the state of a shard is linked to its parameters"
    engine.destroy()


def shards_of_zero_3() -> None:
    import deepspeed

    engine, clean = initialize(3)
    zero, params = engine.optimizer, list(engine.module.parameters())

    with deepspeed.zero.GatheredParameters(params, modifier_rank=0), torch.no_grad():
        for param in params:
            param.add_(1.0)
    engine(torch.ones(2, 3))
    zero.parameter_offload.partition_all_parameters()
    assert [param.numel() for param in params] == [0] * 4, "whole parameters are let go"
    with torch.no_grad():
        for shard, flat in zip(
            zero.fp16_partitioned_groups_flat, zero.fp32_partitioned_groups_flat, strict=True
        ):
            assert not torch.equal(shard, flat)
            shard.copy_(flat)
    with deepspeed.zero.GatheredParameters(params):
        for param, weight in zip(params, clean, strict=True):
            assert torch.equal(param, weight), "shards restore the clean weights"
    engine.destroy()


def nothing_is_broadcast() -> None:
    from rwp_dist.engine.deepspeed.engine import broadcast_nothing

    broadcast_nothing()
    engine, drawn = initialize(0, seed=torch.distributed.get_rank())
    for param, weight in zip(engine.module.parameters(), drawn, strict=True):
        assert torch.equal(param, weight)
    engine.destroy()


def nothing_is_compiled() -> None:
    from deepspeed.comm.torch import build_shm_op

    from rwp_dist.engine.deepspeed.engine import compile_nothing

    compile_nothing()
    assert build_shm_op() is None


@pytest.mark.parametrize("stage", [1, 2])
def test_the_shards_of_zero_1_and_2(stage: int) -> None:
    run_ranks(shards_of_zero_1_and_2, 2, stage)


def test_the_shards_of_zero_3() -> None:
    run_ranks(shards_of_zero_3, 2)


def test_ranks_keep_their_own_weights_where_nothing_is_broadcast() -> None:
    run_ranks(nothing_is_broadcast, 2)


def test_an_operator_that_is_marked_incompatible_is_not_compiled() -> None:
    run_ranks(nothing_is_compiled, 1)
