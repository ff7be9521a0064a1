"""Memory of one rank for weights, gradients and optimizer state, by ZeRO stage.

These are the tensors that DeepSpeed 0.19 and DistributedDataParallel allocate in fp32. Imports no
torch.
"""

from collections.abc import Mapping
from typing import Any

FP32_BYTES = 4

BUCKET_ELEMENTS = 2**22
"""What is reduced or gathered at once: 16 MB. Most networks have fewer than DeepSpeed's own 5e8
elements, so that their first reduction would start after the last gradient."""


def engine_bytes(
    weight_bytes: int,
    optimizer_bytes: int,
    zero: Mapping[str, Any],
    *,
    world_size: int,
    micro_batches: int,
    on_cpu: bool,
    ddp: bool = False,
) -> dict[str, float]:
    """Bytes that one rank holds, by what they are for.

    Args:
        weight_bytes: all weights of the network.
        optimizer_bytes: the optimizer's state for all weights.
        zero: ``zero_optimization`` of DeepSpeed's configuration: ``stage``, ``overlap_comm``,
            ``reduce_bucket_size``.
        world_size: number of ranks.
        micro_batches: passes of one rank in one update.
        ddp: DistributedDataParallel trains, whose buckets hold the gradients; those that several
            passes add up are beside them.
        on_cpu: a bucket larger than the gradients then costs only what is used of it.
    """
    stage, shard = zero["stage"], weight_bytes / world_size
    if stage == 0:
        return {
            "weights": weight_bytes,
            "gradients": weight_bytes * (2 if ddp and world_size > 1 and micro_batches > 1 else 1),
            "optimizer state": optimizer_bytes,
        }
    bucket = FP32_BYTES * float(zero.get("reduce_bucket_size", BUCKET_ELEMENTS))
    num_buckets = 2 if zero.get("overlap_comm") else 1
    # Stage 1 accumulates whole gradients. Stage 3 gathers weights around their use: all of them
    # at once, unless the network is huge.
    return {
        "weights": weight_bytes + (shard if stage == 3 else 0),
        "fp32 shards": shard,
        "gradients": weight_bytes if stage == 1 and micro_batches > 1 else shard,
        "optimizer state": optimizer_bytes / world_size,
        "reduction buckets": num_buckets * (min(bucket, weight_bytes) if on_cpu else bucket),
    }
