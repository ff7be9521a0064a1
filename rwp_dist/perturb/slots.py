"""Which micro-batch of which rank is clean or perturbed, for any number of ranks.

An update consists of ``world_size x micro_batches`` slots. A mixed method makes half of them
clean (one more if the number is odd). Roles alternate over global ranks, so that every node holds
both and ranks do the same work where that is possible.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rwp_dist.perturb.methods import Method


@dataclass(frozen=True)
class Slot:
    """One micro-batch of one rank in every update."""

    index: int
    """``rank * micro_batches + micro_batch``."""
    perturbed: bool
    share: float
    """Weight of this slot's role in the loss: lambda, 1 - lambda, or 1."""
    draw: int
    """Number of its noise. Antithetic partners share one."""
    sign: int = 1
    """-1 for the second slot of an antithetic pair."""


def assign_slots(
    method: Method,
    world_size: int,
    micro_batches: int,
    lambda_: float,
    *,
    antithetic: bool = False,
    shared_draws: bool = False,
) -> list[list[Slot]]:
    """Slots of every rank, ``[world_size][micro_batches]``, clean ones first.

    Perturbed passes come last: then the optimizer's step may bring the clean weights back.

    Args:
        method: its roles.
        world_size: number of ranks.
        micro_batches: micro-batches of each rank in an update.
        lambda_: weight of the perturbed loss in a mixed method.
        antithetic: perturbed slots in pairs use +noise and -noise.
        shared_draws: all ranks use the same noise in the same micro-batch.
    """
    table: list[list[Slot]] = []
    pending: Slot | None = None
    for rank in range(world_size):
        if method.mixed:
            num_perturbed = (rank + 1) * micro_batches // 2 - rank * micro_batches // 2
        else:
            num_perturbed = micro_batches if method.roles == ("perturbed",) else 0
        row = []
        for micro_batch in range(micro_batches):
            perturbed = micro_batch >= micro_batches - num_perturbed
            share = (lambda_ if perturbed else 1.0 - lambda_) if method.mixed else 1.0
            index = rank * micro_batches + micro_batch
            slot = Slot(index, perturbed, share, draw=micro_batch if shared_draws else index)
            if perturbed and antithetic:
                if pending is None:
                    pending = slot
                else:
                    slot = replace(slot, draw=pending.draw, sign=-1)
                    pending = None
            row.append(slot)
        table.append(row)
    return table


def loss_scale(slot: Slot, num_slots: int, clean: float, perturbed: float) -> float:
    """Factor of a slot's *summed* loss that makes the mean over all slots exact.

    With ``n`` samples in all slots of its role, it is ``share * slots / n``. The mean over slots is
    then ``lambda * mean(perturbed) + (1 - lambda) * mean(clean)`` for any number of ranks, slots
    of each role, and samples that are padding or could not be read.

    Args:
        slot: one slot.
        num_slots: slots of the update over all ranks.
        clean: samples of all clean slots that count.
        perturbed: samples of all perturbed slots that count.
    """
    samples = perturbed if slot.perturbed else clean
    # A last batch may be too small for both roles: the one that is there then counts alone.
    share = slot.share if (clean and perturbed) or slot.share == 0 else 1.0
    return share * num_slots / samples if samples else 0.0


def mean_loss_weight(slot: Slot, slots: Sequence[Sequence[Slot]]) -> float:
    """Factor of a slot's *mean* loss, for slots of equal size whose gradients a rank adds up.

    The sum over a rank's micro-batches, averaged over ranks, is then the method's gradient.
    """
    role = sum(other.perturbed == slot.perturbed for row in slots for other in row)
    return slot.share * len(slots) / role
