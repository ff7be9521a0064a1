"""Memory and checkpoints of a run, estimated from the network's shapes.

The engine and the perturbation say what they hold; the activations are counted here. Left out are
what CUDA, NCCL and cuDNN take for themselves and what fragmentation loses.
"""

import importlib.util
from collections.abc import Callable
from typing import Any, Literal

import psutil  # type: ignore[import-untyped]
import torch
from torch import Tensor, nn

from rwp_dist.base.errors import ConfigError
from rwp_dist.config import Settings, Split
from rwp_dist.engine.deepspeed.config import deepspeed_config
from rwp_dist.engine.memory import engine_bytes
from rwp_dist.engine.sharding import needs_copy, uses_deepspeed
from rwp_dist.perturb.memory import perturbation_bytes
from rwp_dist.perturb.methods import METHODS
from rwp_dist.process import cgroup
from rwp_dist.run.models import build_shapes
from rwp_dist.run.optimizers import build_optimizer, is_elementwise
from rwp_dist.run.slots import most_perturbed, slots_of

TIGHT = 0.85
"""Share of the memory above which what the estimate leaves out may not fit."""

PROCESS_BYTES = 0.6e9
"""A rank on the CPU before it has any tensor: Python, torch and perhaps DeepSpeed."""


ZERO_STAGES: tuple[Literal[0, 1, 2], ...] = (0, 1, 2)
"""Stages that ``auto`` chooses from: stage 3 has all ranks share one noise."""


def estimate(settings: Settings, split: Split, *, on_gpus: bool) -> dict[str, float]:
    """Bytes of one rank at its peak, by what they are for.

    Raises:
        ConfigError: there is no such model.
    """
    model = build_shapes(settings)
    sizes = [p.nbytes for p in model.parameters()]
    held = _held(settings, split, sizes, optimizer_bytes(settings, model), on_gpus=on_gpus)
    return held | {"activations": activation_bytes(settings, split.size, model)}


def _held(
    settings: Settings, split: Split, sizes: list[int], of_optimizer: int, *, on_gpus: bool
) -> dict[str, float]:
    """What the engine and the perturbation hold of parameters of these sizes in bytes."""
    zero = deepspeed_config(settings, split)["zero_optimization"]
    num_perturbed = most_perturbed(slots_of(settings, split))
    triton = on_gpus and importlib.util.find_spec("triton") is not None
    return {
        **engine_bytes(
            sum(sizes),
            of_optimizer,
            zero,
            world_size=split.world_size,
            micro_batches=split.micro_batches,
            on_cpu=not on_gpus,
            ddp=not uses_deepspeed(settings),
        ),
        **perturbation_bytes(
            METHODS[settings.method.name],
            sum(sizes),
            max(sizes),
            num_perturbed=num_perturbed,
            copy=needs_copy(settings, num_perturbed),
            prefetch=settings.noise.prefetch,
            in_registers=triton and settings.noise.backend in ("auto", "triton"),
        ),
    }


def with_zero_stage(settings: Settings, split: Split, memory_bytes: float | None) -> Settings:
    """The same with a number for ``deepspeed.zero_stage: auto``: the first that fits.

    0 where nothing can be split: on one rank, for an optimizer that needs whole parameters, under
    ``engine.name=ddp``, and for a network of which the memory cannot be estimated.

    Args:
        settings: of the run.
        split: how a batch is shared.
        memory_bytes: of the smallest GPU; None: ranks compute on CPUs, where nothing is split.

    Raises:
        ConfigError: there is no such model or optimizer.
    """
    if settings.deepspeed.zero_stage != "auto":
        return settings
    whole = with_stage(settings, 0)
    only = settings.engine.name == "ddp" or split.world_size == 1 or not is_elementwise(settings)
    if memory_bytes is None or only:
        return whole
    try:
        model = build_shapes(settings)
        sizes, of_optimizer = [p.nbytes for p in model.parameters()], optimizer_bytes(whole, model)
        activations = activation_bytes(settings, split.size, model)
    except ConfigError:
        raise
    except Exception:  # a network of the user's may not work without values
        return whole
    needs = {}
    for stage in ZERO_STAGES:
        chosen = with_stage(settings, stage)
        held = _held(chosen, split, sizes, of_optimizer, on_gpus=True)
        needs[stage] = sum(held.values()) + activations
        if needs[stage] <= TIGHT * memory_bytes:
            return chosen
    return with_stage(settings, min(needs, key=lambda stage: needs[stage]))


def with_stage(settings: Settings, stage: int) -> Settings:
    """The same settings with this number for ``deepspeed.zero_stage``."""
    deepspeed = settings.deepspeed.model_copy(update={"zero_stage": stage})
    return settings.model_copy(update={"deepspeed": deepspeed})


def optimizer_bytes(settings: Settings, model: nn.Module) -> int:
    """State of the optimizer for all weights, from one step of a model on the meta device."""
    optimizer = build_optimizer(model, settings)
    for param in model.parameters():
        param.grad = torch.empty_like(param)
    optimizer.step()
    for param in model.parameters():
        param.grad = None
    values = [value for state in optimizer.state.values() for value in state.values()]
    return sum(v.nbytes for v in values if isinstance(v, Tensor) and v.is_meta)


def activation_bytes(settings: Settings, batch: int, model: nn.Module) -> float:
    """What a forward pass of one micro-batch keeps for the backward pass.

    Nothing is computed: shapes go through a network on the meta device, and autograd tells what it
    saves. In bf16 the count is of a network wholly in bf16, which ``model`` becomes; autocast keeps
    some of it in fp32 as well. With ``model.checkpointing`` it is what a backward pass finds, and
    what the largest block keeps when it is computed again.
    """
    dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    model = model.to(dtype).train()
    shape = (batch, settings.data.channels, settings.data.image_size, settings.data.image_size)
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    again: list[Callable[[], Any]] = []
    if settings.model.checkpointing:
        from rwp_dist.run.recompute import when_computed_again

        again = when_computed_again(model)
    kept = _kept_bytes(lambda: model(torch.empty(shape, device="meta", dtype=dtype)), own)
    return kept + max((_kept_bytes(block, own) for block in again), default=0.0)


def _kept_bytes(forward: Callable[[], Any], own: set[int]) -> float:
    """Bytes of the tensors that autograd saves in a forward pass, but for storages of ``own``."""
    kept: dict[int, Tensor] = {}  # as long as a tensor is held, no other gets its address

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in own:
            kept.setdefault(storage, tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    return float(sum(tensor.untyped_storage().nbytes() for tensor in kept.values()))


def checkpoint_bytes(settings: Settings) -> float:
    """All checkpoints at once: those that are kept and the one being written.

    Raises:
        ConfigError: there is no such model.
    """
    model = build_shapes(settings)
    one = sum(p.nbytes for p in model.parameters()) + optimizer_bytes(settings, model)
    return float(one * (settings.checkpoint.keep_last + 1))


def available_bytes() -> float:
    """Main memory that processes can still have, within the container's or the job's limit."""
    free, limit = psutil.virtual_memory().available, cgroup.memory_left()
    return float(free if limit is None else min(free, max(limit, 0)))
