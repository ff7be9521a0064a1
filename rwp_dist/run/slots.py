"""The slots of a run's updates, from its settings. Imports no torch."""

from rwp_dist.config import Settings, Split
from rwp_dist.engine.sharding import shares_weights
from rwp_dist.perturb.methods import METHODS
from rwp_dist.perturb.slots import Slots


def slots_of(settings: Settings, split: Split) -> Slots:
    """Slots of every rank, ``[world_size][micro_batches]``, clean ones first."""
    return Slots(
        METHODS[settings.method.name],
        split.world_size,
        split.micro_batches,
        settings.method.lambda_,
        antithetic=settings.method.antithetic,
        shared_draws=shares_weights(settings),
    )


def most_perturbed(slots: Slots) -> int:
    """Perturbed passes in one update, on the rank that has most of them."""
    # Roles alternate, so that of two ranks one has the most.
    return max(sum(slot.perturbed for slot in row) for row in slots[:2])
