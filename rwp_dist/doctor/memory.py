"""Memory of one rank, estimated from the network's shapes and ZeRO's stage, against what is there.

The parts are those that this project and DeepSpeed 0.19 allocate in fp32; a test compares their
sum with the tensors of a real engine. Left out are what CUDA, NCCL and cuDNN take for themselves
and what fragmentation loses.
"""

from collections.abc import Iterator
from typing import Any

import psutil  # type: ignore[import-untyped]
import torch
from torch import nn

from rwp_dist.base.errors import ConfigError
from rwp_dist.config import Settings, Split, split_batch
from rwp_dist.doctor import cgroup
from rwp_dist.doctor.case import Case
from rwp_dist.doctor.finding import Finding, State
from rwp_dist.perturb.methods import METHODS
from rwp_dist.perturb.slots import assign_slots
from rwp_dist.run.models import build_shapes
from rwp_dist.tracking.console import size

GROUP = "memory"

FP32_BYTES = 4
BUCKET_ELEMENTS = 500_000_000
"""DeepSpeed's default ``zero_optimization.reduce_bucket_size``."""

TIGHT = 0.85
"""Share of the memory above which what the estimate leaves out may not fit."""

PROCESS_BYTES = 0.6e9
"""Of a rank on the CPU: Python, torch and DeepSpeed themselves."""


def fits(case: Case) -> Iterator[Finding]:
    """What a rank will hold at its peak, and whether it fits."""
    settings = case.settings
    if settings is None:
        return
    model = build_shapes(settings)
    try:
        split = split_batch(settings, case.world_size)
    except ConfigError as error:
        seen, _, cure = str(error).rstrip(".").rpartition("; ")
        yield Finding(
            GROUP,
            "batch",
            "warning",
            f"with {case.world_size} ranks, {seen}",
            f"{cure[:1].upper()}{cure[1:]}, or start another number of ranks.",
        )
        return
    parts = estimate(settings, split, model, on_cpu=not case.on_gpus)
    total = sum(parts.values())
    text = ", ".join(f"{name} {size(v)}" for name, v in parts.items() if v >= 0.005 * total)
    ranks = f"{split.world_size} rank{'s' if split.world_size > 1 else ''}"
    stage = settings.deepspeed.zero_stage
    yield Finding(
        GROUP,
        "estimate",
        "ok",
        f"{size(total)} a rank, with {ranks} at ZeRO {stage}: {text}",
        "",
        {"total_bytes": total, **{f"{k.replace(' ', '_')}_bytes": v for k, v in parts.items()}},
    )
    if case.on_gpus:
        memories = [gpu.memory_bytes for gpu in case.gpus if gpu.memory_bytes]
        if memories:
            yield _verdict("GPU memory", total, min(memories), split)
    else:
        need = case.ranks_here * (total + PROCESS_BYTES)
        yield _verdict("main memory", need, available_bytes(), split)


def estimate(
    settings: Settings, split: Split, model: nn.Module, *, on_cpu: bool
) -> dict[str, float]:
    """Bytes of one rank at its peak, by what they are for.

    Args:
        settings: precision, method, optimizer and ZeRO stage.
        split: number of ranks and size of a micro-batch.
        model: on the meta device.
        on_cpu: a bucket's pages then count only as far as they are used.
    """
    stage, ranks = settings.deepspeed.zero_stage, split.world_size
    method = METHODS[settings.method.name]
    weights = FP32_BYTES * sum(p.numel() for p in model.parameters())
    largest = FP32_BYTES * max(p.numel() for p in model.parameters())
    share = weights / ranks
    o = settings.optimizer
    moments = 2 if o.name == "adamw" else int(o.momentum > 0)
    zero = settings.deepspeed.extra.get("zero_optimization", {})
    bucket = FP32_BYTES * float(zero.get("reduce_bucket_size", BUCKET_ELEMENTS))
    parts: dict[str, float] = {}
    # Stage 3 gathers whole weights around their use: all of them, unless the network is huge.
    parts["weights"] = weights + (share if stage == 3 else 0)
    parts["fp32 shards"] = share if stage else 0
    whole = stage == 0 or (stage == 1 and split.micro_batches > 1)
    parts["gradients"] = weights if whole else share
    parts["optimizer state"] = moments * (share if stage else weights)
    if stage:
        count = 2 if settings.deepspeed.overlap_comm else 1
        parts["reduction buckets"] = count * (min(bucket, weights) if on_cpu else bucket)
    if method.direction != "none":
        passes = _most_perturbed(settings, split)
        if passes and stage < 3 and (stage == 0 or passes > 1):
            parts["perturbed copy"] = weights
        if method.direction == "ascent":  # its gradient, and what is made of it
            parts["perturbation"] = (4 if method.elementwise else 2) * weights
        elif passes and settings.noise.prefetch:
            parts["noise"] = weights
        else:  # drawn for one parameter at a time
            parts["noise"] = largest
    parts["activations"] = activation_bytes(settings, split.size, model)
    return parts


def activation_bytes(settings: Settings, batch: int, model: nn.Module) -> float:
    """What a forward pass of one micro-batch keeps for the backward pass.

    Counted without computing: shapes go through the network, and autograd tells what it saves. In
    bf16 the count is of a network wholly in bf16; autocast keeps some of it in fp32 as well.
    """
    kind = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    model = model.to(kind).train()
    shape = (batch, settings.data.channels, settings.data.image_size, settings.data.image_size)
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}  # holding them keeps each storage's identity its own

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in own:
            kept.setdefault(storage, tensor)
        return tensor

    def same(tensor: Any) -> Any:
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, same):
        model(torch.empty(shape, device="meta", dtype=kind))
    return float(sum(tensor.untyped_storage().nbytes() for tensor in kept.values()))


def checkpoint_bytes(settings: Settings) -> float:
    """Of all checkpoints at once: those that are kept, and the one that is being written.

    Raises:
        ConfigError: there is no such model.
    """
    weights = FP32_BYTES * sum(p.numel() for p in build_shapes(settings).parameters())
    o = settings.optimizer
    moments = 2 if o.name == "adamw" else int(o.momentum > 0)
    return float((1 + moments) * weights * (settings.checkpoint.keep_last + 1))


def available_bytes() -> float:
    """Main memory that processes can still have, within the container's or the job's limit."""
    room, limit = psutil.virtual_memory().available, cgroup.memory_left()
    return float(room if limit is None else min(room, max(limit, 0)))


def _most_perturbed(settings: Settings, split: Split) -> int:
    """Perturbed passes of any one rank in one update, as ``setup`` counts them."""
    slots = assign_slots(
        METHODS[settings.method.name],
        split.world_size,
        split.micro_batches,
        settings.method.lambda_,
        antithetic=settings.method.antithetic,
        shared_draws=settings.deepspeed.zero_stage == 3,
    )
    return max(sum(slot.perturbed for slot in row) for row in slots)


def _verdict(name: str, need: float, have: float, split: Split) -> Finding:
    figures = {"need_bytes": need, "have_bytes": have}
    if need <= TIGHT * have:
        return Finding(GROUP, name, "ok", f"{size(have)}, {size(need)} needed", "", figures)
    state: State = "problem" if need > have else "warning"
    what = "too little" if need > have else "little more than the estimate"
    return Finding(
        GROUP,
        name,
        state,
        f"{size(have)} is {what}: {size(need)} needed, and some that cannot be estimated",
        f"Set batch.per_rank below {split.size}, precision to bf16 or deepspeed.zero_stage higher, "
        "or use more ranks.",
        figures,
    )
