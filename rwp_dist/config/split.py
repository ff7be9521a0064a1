"""How the samples of one update are split over ranks and micro-batches."""

import math
from dataclasses import dataclass

from rwp_dist.base.errors import ConfigError
from rwp_dist.config.tree import Settings
from rwp_dist.perturb.methods import METHODS


@dataclass(frozen=True)
class Split:
    """``batch.global = world_size * micro_batches * size``."""

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
    """The fewest equal micro-batches that ``batch.per_rank`` allows.

    A mixed method on one rank gets at least two.

    Raises:
        ConfigError: the batch cannot be shared equally, or only into micro-batches of less than
            half of ``batch.per_rank``; or there are fewer than the method needs.
    """
    found = _try_split(settings, world_size, settings.batch.global_)
    if isinstance(found, Split):
        return found
    cure = _other_batch(settings, world_size)
    raise ConfigError(
        found.problem, key=found.key, cure=f"{found.cure}, or {cure}" if found.cure else cure
    )


def _try_split(settings: Settings, world_size: int, total: int) -> Split | ConfigError:
    """The split of ``total`` samples, or why there is none, with a cure besides another batch."""
    method, per_rank = METHODS[settings.method.name], settings.batch.per_rank
    if total % world_size:
        return ConfigError(
            f"{world_size} ranks cannot share {total} samples equally", key="batch.global"
        )
    samples = total // world_size
    fewest = 2 if method.mixed and world_size == 1 else 1
    if samples < fewest:
        return ConfigError(
            f"{settings.method.name} splits a batch into a clean and a perturbed part, so one "
            "rank needs at least 2 samples",
            key="batch.global",
        )
    fewest = max(fewest, math.ceil(samples / per_rank))
    count = next(n for n in range(fewest, samples + 1) if samples % n == 0)
    split = Split(world_size, count, samples // count)
    if 2 * split.size < min(per_rank, samples):
        return ConfigError(
            f"the {samples} samples of a rank fall into {count} equal micro-batches of "
            f"{split.size}, although batch.per_rank allows {per_rank}",
            key="batch.global",
        )
    perturbed = split.slots // 2 if method.mixed else split.slots
    if settings.method.antithetic and perturbed < 2:
        return ConfigError(
            f"a pair needs two perturbed micro-batches in one update, and this run has {perturbed}",
            key="method.antithetic",
        )
    if settings.deepspeed.zero_stage == 3 and method.mixed and count % 2:
        return ConfigError(
            "all ranks have the same weights at stage 3, so each rank needs as many clean as "
            f"perturbed micro-batches, and it has {count} in all",
            key="deepspeed.zero_stage",
            cure="set deepspeed.zero_stage to 2",
        )
    return split


def _other_batch(settings: Settings, world_size: int) -> str:
    """The nearest batch that can be split, with ``batch.per_rank`` as it is if possible."""
    total, mixed = settings.batch.global_, METHODS[settings.method.name].mixed
    if settings.method.antithetic:
        slots = 4 if mixed else 2
    else:
        slots = 2 if mixed else 1
    count = max(
        math.ceil(total / (world_size * settings.batch.per_rank)), math.ceil(slots / world_size)
    )
    if settings.deepspeed.zero_stage == 3 and mixed:
        count += count % 2
    unit = math.lcm(world_size * count, settings.data.lanes or 1)
    below = total // unit * unit
    near = [total] if below == total else [n for n in (below, below + unit) if n]
    good = [n for n in near if isinstance(_try_split(settings, world_size, n), Split)]
    if good:
        return f"set batch.global to {' or '.join(map(str, good))}"
    nearest = min(near, key=lambda n: abs(n - total))
    size = f"batch.per_rank to {nearest // (world_size * count)}"
    return f"set {size}" if nearest == total else f"set batch.global to {nearest} and {size}"
