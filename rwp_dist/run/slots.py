"""The slots of a run's updates, from its settings. Imports no torch."""

from rwp_dist.config import Settings, Split
from rwp_dist.engine.sharding import shares_weights
from rwp_dist.perturb.methods import METHODS
from rwp_dist.perturb.slots import Slot, assign_slots


def slots_of(settings: Settings, split: Split) -> list[list[Slot]]:
    """Slots of every rank, ``[world_size][micro_batches]``, clean ones first."""
    return assign_slots(
        METHODS[settings.method.name],
        split.world_size,
        split.micro_batches,
        settings.method.lambda_,
        antithetic=settings.method.antithetic,
        shared_draws=shares_weights(settings),
    )


def most_perturbed(slots: list[list[Slot]]) -> int:
    """Perturbed passes in one update, on the rank that has most of them."""
    return max(sum(slot.perturbed for slot in row) for row in slots)
