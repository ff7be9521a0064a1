"""What follows from the settings: DeepSpeed's configuration and the split of a batch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rwp_dist.config.tree import Settings
from rwp_dist.errors import ConfigError

MIXED = ("m-rwp", "m-arwp")

OWNED = {
    "optimizer": "optimizer.*",
    "scheduler": "schedule.*",
    "fp16": "precision",
    "bf16": "precision",
    "amp": "precision",
}
"""Sections of DeepSpeed's configuration that this project sets itself, and from where."""


@dataclass(frozen=True)
class Split:
    """How one update's samples lie on the ranks: ``global = world * micro_batches * size``."""

    world_size: int
    micro_batches: int
    """Micro-batches of one rank in one update (gradient accumulation)."""
    size: int
    """Samples of one micro-batch."""

    @property
    def slots(self) -> int:
        """Micro-batches of one update over all ranks."""
        return self.world_size * self.micro_batches


def split_batch(settings: Settings, world_size: int) -> Split:
    """Fewest equal micro-batches that fit ``batch.per_rank``; two at least for a mixed method.

    Raises:
        ConfigError: the batch cannot be shared out equally.
    """
    total = settings.batch.global_
    if total % world_size:
        near = max(total // world_size, 1) * world_size
        raise ConfigError(
            f"batch.global: {total} samples cannot be shared equally by {world_size} ranks; "
            f"set it to {near} or {near + world_size}."
        )
    samples = total // world_size
    mixed = settings.method.name in MIXED
    least = 2 if mixed and world_size == 1 else 1
    for count in range(max(least, -(-samples // settings.batch.per_rank)), samples + 1):
        if samples % count == 0:
            break
    else:
        raise ConfigError(
            f"batch.global: {settings.method.name} splits a batch into a clean and a perturbed "
            f"part, so one rank needs at least 2 samples; set batch.global to 2 or more."
        )
    split = Split(world_size, count, samples // count)
    if settings.method.antithetic and mixed and split.slots < 4:
        raise ConfigError(
            "method.antithetic: a pair needs two perturbed slots, and this run has one; use 4 "
            f"ranks, or set batch.per_rank to {max(samples // (4 // world_size or 1), 1)} or less."
        )
    if settings.deepspeed.zero_stage == 3 and mixed and count % 2:
        raise ConfigError(
            f"deepspeed.zero_stage: stage 3 gathers the same weights on every rank, so clean and "
            f"perturbed passes must alternate within a rank, and a rank has {count} micro-batch"
            f"{'es' if count > 1 else ''}; set deepspeed.zero_stage to 2, or batch.per_rank to "
            f"{max(samples // 2, 1)} for an even number."
        )
    return split


def deepspeed_config(settings: Settings, split: Split) -> dict[str, Any]:
    """DeepSpeed's configuration: derived, then what ``deepspeed.extra`` adds."""
    config = _fixed(settings)
    config["train_batch_size"] = settings.batch.global_
    config["train_micro_batch_size_per_gpu"] = split.size
    config["gradient_accumulation_steps"] = split.micro_batches
    return _merge(_merge(_preferred(), settings.deepspeed.extra), config)


def contradictions(settings: Settings) -> Iterator[str]:
    """What ``deepspeed.extra`` sets against the settings, one sentence each."""
    extra = settings.deepspeed.extra
    for key, owner in OWNED.items():
        if key in extra:
            yield f"deepspeed.extra.{key} is set by this project; use {owner} instead."
    for key in (
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "gradient_accumulation_steps",
    ):
        if key in extra:
            yield f"deepspeed.extra.{key} follows from batch.global and batch.per_rank; remove it."
    for path, fixed, given in _conflicts(_fixed(settings), extra, ()):
        if path[0] not in OWNED:
            yield (
                f"deepspeed.extra.{'.'.join(path)} is {given!r}, but the other settings make it "
                f"{fixed!r}; remove it."
            )


def _preferred() -> dict[str, Any]:
    """What may be overridden. Gradients are reduced in fp32, not in the autocast type."""
    return {
        "steps_per_print": 2**62,
        "wall_clock_breakdown": False,
        "torch_autocast": {"lower_precision_safe_modules": []},
    }


def _fixed(settings: Settings) -> dict[str, Any]:
    """What may not be overridden, because a setting of this project already says it."""
    stage = settings.deepspeed.zero_stage
    zero: dict[str, Any] = {"stage": stage}
    if stage:
        zero["overlap_comm"] = settings.deepspeed.overlap_comm
    return {
        "gradient_clipping": settings.optimizer.clip_norm,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "torch_autocast": {"enabled": settings.precision == "bf16", "dtype": "bfloat16"},
    }


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            value = _merge(old, value)
        merged[key] = value
    return merged


def _conflicts(
    fixed: dict[str, Any], extra: dict[str, Any], path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    for key in fixed.keys() & extra.keys():
        here = (*path, key)
        if isinstance(fixed[key], dict) and isinstance(extra[key], dict):
            yield from _conflicts(fixed[key], extra[key], here)
        elif fixed[key] != extra[key]:
            yield here, fixed[key], extra[key]
