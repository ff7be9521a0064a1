"""Which micro-batch of which rank is clean or perturbed, for any number of ranks.

An update consists of ``world_size x micro_batches`` slots. A mixed method makes half of them
clean (one more if the number is odd). Roles alternate over global ranks, so that every node holds
both and ranks do the same work where that is possible.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

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


@dataclass(frozen=True)
class Slots(Sequence[Sequence[Slot]]):
    """Slots of every rank, ``[world_size][micro_batches]``, clean ones first.

    Perturbed passes come last: then the optimizer's step may bring the clean weights back. A rank's
    slots are made when they are asked for: with thousands of ranks, each needs its own alone.
    """

    method: Method
    """Its roles."""
    world_size: int
    micro_batches: int
    """Micro-batches of each rank in an update."""
    lambda_: float
    """Weight of the perturbed loss in a mixed method."""
    antithetic: bool = False
    """Perturbed slots in pairs use +noise and -noise."""
    shared_draws: bool = False
    """All ranks use the same noise in the same micro-batch."""

    @property
    def num_perturbed(self) -> int:
        """Perturbed slots of an update over all ranks."""
        return self._perturbed_before(self.world_size)

    def __len__(self) -> int:
        return self.world_size

    @overload
    def __getitem__(self, rank: int) -> list[Slot]: ...
    @overload
    def __getitem__(self, rank: slice) -> list[list[Slot]]: ...
    def __getitem__(self, rank: int | slice) -> list[Slot] | list[list[Slot]]:
        ranks = range(self.world_size)[rank]
        return self._row(ranks) if isinstance(ranks, int) else [self._row(one) for one in ranks]

    def _row(self, rank: int) -> list[Slot]:
        number = self._perturbed_before(rank)  # of the next perturbed slot over all ranks
        first = self.micro_batches - (self._perturbed_before(rank + 1) - number)
        row = []
        for micro_batch in range(self.micro_batches):
            perturbed = micro_batch >= first
            share = 1.0
            if self.method.mixed:
                share = self.lambda_ if perturbed else 1.0 - self.lambda_
            second = perturbed and self.antithetic and number % 2 == 1
            draw = self._draw(*self._before(rank, micro_batch) if second else (rank, micro_batch))
            index = rank * self.micro_batches + micro_batch
            row.append(Slot(index, perturbed, share, draw, sign=-1 if second else 1))
            number += perturbed
        return row

    def _perturbed_before(self, rank: int) -> int:
        """Perturbed slots of all lower ranks."""
        slots = rank * self.micro_batches
        if self.method.mixed:
            return slots // 2
        return slots if self.method.roles == ("perturbed",) else 0

    def _before(self, rank: int, micro_batch: int) -> tuple[int, int]:
        """Rank and micro-batch of the perturbed slot before a perturbed one."""
        here = self._perturbed_before(rank + 1) - self._perturbed_before(rank)
        if micro_batch > self.micro_batches - here:
            return rank, micro_batch - 1
        while self._perturbed_before(rank) == self._perturbed_before(rank - 1):
            rank -= 1  # at most once: of two ranks, one has a perturbed slot
        return rank - 1, self.micro_batches - 1

    def _draw(self, rank: int, micro_batch: int) -> int:
        return micro_batch if self.shared_draws else rank * self.micro_batches + micro_batch


def num_perturbed(slots: Sequence[Sequence[Slot]]) -> int:
    """Perturbed slots of an update over all ranks."""
    if isinstance(slots, Slots):
        return slots.num_perturbed
    return sum(slot.perturbed for row in slots for slot in row)


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
    role = num_perturbed(slots)
    if not slot.perturbed:
        role = sum(map(len, slots[:1])) * len(slots) - role
    return slot.share * len(slots) / role
