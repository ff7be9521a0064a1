"""What follows from the settings: DeepSpeed's configuration and the split of a batch."""

import difflib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rwp_dist.base.errors import ConfigError
from rwp_dist.config.deepspeed_keys import DEEPSPEED_KEYS
from rwp_dist.config.tree import Settings
from rwp_dist.perturb.methods import METHODS

OWNED = {
    "optimizer": "optimizer.*",
    "scheduler": "schedule.*",
    "fp16": "precision",
    "bf16": "precision",
    "bfloat16": "precision",
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
        ConfigError: the batch cannot be shared out equally, or only into far smaller micro-batches
            than ``batch.per_rank`` allows; or there are too few for what the method needs.
    """
    found = _try_split(settings, world_size, settings.batch.global_, settings.batch.per_rank)
    if isinstance(found, Split):
        return found
    raise ConfigError(f"{found}{_cure(settings, world_size, found)}.")


def _try_split(settings: Settings, world_size: int, total: int, per_rank: int) -> Split | str:
    """The split of ``total`` samples; or why there is none, as a sentence that a cure ends."""
    if total % world_size:
        return f"batch.global: {total} samples cannot be shared equally by {world_size} ranks; "
    method = METHODS[settings.method.name]
    samples = total // world_size
    least = 2 if method.mixed and world_size == 1 else 1
    if samples < least:
        return (
            f"batch.global: {settings.method.name} splits a batch into a clean and a perturbed "
            "part, so one rank needs at least 2 samples; "
        )
    counts = range(max(least, -(-samples // per_rank)), samples + 1)
    count = next(n for n in counts if samples % n == 0)
    split = Split(world_size, count, samples // count)
    if 2 * split.size < min(per_rank, samples):
        return (
            f"batch.global: the {samples} samples of a rank fall into {count} equal micro-batches "
            f"of {split.size}, though batch.per_rank allows {per_rank}; "
        )
    perturbed = split.slots // 2 if method.mixed else split.slots
    if settings.method.antithetic and perturbed < 2:
        return f"method.antithetic: a pair needs two perturbed slots, this run has {perturbed}; "
    if settings.deepspeed.zero_stage == 3 and method.mixed and count % 2:
        return (
            "deepspeed.zero_stage: stage 3 gathers the same weights on every rank, so clean and "
            f"perturbed passes must alternate within a rank, and a rank has {count} micro-batch"
            f"{'es' if count > 1 else ''}; set deepspeed.zero_stage to 2, or "
        )
    return split


def _cure(settings: Settings, world_size: int, reason: str) -> str:
    """The nearest batch that can be split, with ``batch.per_rank`` as it is if possible."""
    total, per_rank = settings.batch.global_, settings.batch.per_rank
    mixed = METHODS[settings.method.name].mixed
    slots = (4 if mixed else 2) if settings.method.antithetic else 2 if mixed else 1
    count = max(-(-total // (world_size * per_rank)), -(-slots // world_size))
    if settings.deepspeed.zero_stage == 3 and mixed:
        count += count % 2
    unit = math.lcm(world_size * count, settings.data.lanes or 1)
    below = total // unit * unit
    near = [total] if below == total else [n for n in (below, below + unit) if n]
    good = [n for n in near if isinstance(_try_split(settings, world_size, n, per_rank), Split)]
    if good:
        key = "it" if reason.startswith("batch.global") else "batch.global"
        return f"set {key} to {' or '.join(map(str, good))}"
    nearest = min(near, key=lambda n: abs(n - total))
    size = f"batch.per_rank to {nearest // (world_size * count)}"
    return f"set {size}" if nearest == total else f"set batch.global to {nearest} and {size}"


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
    for key in sorted(extra.keys() - DEEPSPEED_KEYS - OWNED.keys()):
        near = difflib.get_close_matches(key, DEEPSPEED_KEYS, n=1)
        hint = f"did you mean {near[0]}?" if near else "remove it."
        yield f"deepspeed.extra.{key}: DeepSpeed has no such key; {hint}"
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
        # It would synchronise the device at every forward; this project times its steps itself.
        "timers": {"throughput": {"enabled": False}},
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
