"""Time of a training step on many ranks: pure functions of small records. Imports no torch.

docs/scale.md has the formulas in words, and how far they are from what was measured.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist


@dataclass(frozen=True)
class Bucket:
    """Gradients that are reduced at once."""

    num_bytes: float
    ready: float
    """Share of the last backward pass after which the last of them is there."""


@dataclass(frozen=True)
class Link:
    """From one rank to the next."""

    bytes_per_s: float
    latency_s: float
    tree_latency_s: float = math.inf
    """Of a step up or down a tree. Infinite: there are rings only, as in gloo."""


@dataclass(frozen=True)
class Fabric:
    """Nodes with ``per_node`` ranks each, and the links inside and between them."""

    per_node: int
    inside: Link
    between: Link
    """``bytes_per_s`` is what all ranks of a node can send together."""
    start_s: float = 0.0
    """Of every reduction."""

    def all_reduce_s(self, num_bytes: float, ranks: int) -> float:
        """Seconds until all ranks have the sum: by a ring or by trees, whichever is faster.

        A ring of n ranks sends ``2 (n-1)/n`` of the bytes over each link, in ``2 (n-1)`` steps. It
        passes from node to node once, so that each node sends as much as each rank. A pair of
        binary trees sends twice the bytes, in steps that grow with the logarithm of the nodes.
        """
        if ranks == 1:
            return 0.0
        nodes = self._nodes(ranks)
        ring_s = 2 * self._around_s(num_bytes, ranks)
        inner, outer = min(ranks, self.per_node) - 1, math.ceil(math.log2(nodes))
        tree_s = 2 * num_bytes / (TREE_SHARE * self._bytes_per_s(nodes))
        # A tree that is not there has an infinite latency, and 0 steps of it are none.
        for steps, link in ((inner, self.inside), (outer, self.between)):
            tree_s += 2 * steps * link.tree_latency_s if steps else 0.0
        return self.start_s + min(ring_s, tree_s)

    def all_gather_s(self, num_bytes: float, ranks: int) -> float:
        """Seconds until all ranks have all parts, of ``num_bytes`` together: half a ring."""
        return self.start_s + self._around_s(num_bytes, ranks) if ranks > 1 else 0.0

    def _around_s(self, num_bytes: float, ranks: int) -> float:
        """Once around the ring."""
        nodes = self._nodes(ranks)
        steps = (ranks - nodes) * self.inside.latency_s + (nodes - 1) * self.between.latency_s
        return (ranks - 1) / ranks * num_bytes / self._bytes_per_s(nodes) + steps

    def _nodes(self, ranks: int) -> int:
        return math.ceil(ranks / self.per_node)

    def _bytes_per_s(self, nodes: int) -> float:
        """Of the slowest link on the way."""
        rates = [self.between.bytes_per_s] if nodes > 1 else []
        return min(rates + ([self.inside.bytes_per_s] if self.per_node > 1 else []))


TREE_SHARE = 0.92
"""Of the bandwidth of a ring that NCCL expects of its trees (``src/graph/tuning.cc``)."""


@dataclass(frozen=True)
class Work:
    """What one rank does in an update, in seconds on a device of its own."""

    passes: int
    """Forward and backward passes one after the other."""
    forward_s: float
    backward_s: float
    rest_s: float = 0.0
    """Perturbing the weights, the optimizer's step, and what an engine adds."""
    reduced_passes: int = 1
    """Passes whose gradients are reduced: the last one's alone, unless gradients are shards."""


@dataclass(frozen=True)
class Cores:
    """Processors that ranks share with each other, and with what reduces gradients."""

    per_rank: float = 1.0
    """Share of a core that each rank has, at most 1: three ranks on two cores have 2/3."""
    reduce_s_per_byte: float = 0.0
    """Core time of a rank for each byte that is reduced."""


OWN = Cores()
"""Each rank has its own device, and links that work by themselves: GPUs."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of one update, by what they go to."""

    compute_s: float
    wait_s: float
    """Until gradients are reduced and weights gathered, after the backward pass has ended."""
    straggle_s: float
    """Until the slowest rank is done."""

    @property
    def total_s(self) -> float:
        """Of the whole update."""
        return self.compute_s + self.wait_s + self.straggle_s


def step_time(
    work: Work,
    buckets: Sequence[Bucket],
    fabric: Fabric,
    ranks: int,
    *,
    gathered_bytes: float = 0.0,
    spread: float = 0.0,
    cores: Cores = OWN,
) -> StepTime:
    """Time of one update.

    Args:
        work: of each rank.
        buckets: in the order in which they are reduced.
        fabric: what the ranks are joined by.
        ranks: how many.
        gathered_bytes: weights that all ranks gather after their step (ZeRO 1 and 2).
        spread: standard deviation of the time of computing over ranks, as a share of it.
        cores: what ranks share.
    """
    backward_s, reduced_s = overlap(work.backward_s, buckets, fabric, ranks, cores)
    before_s = work.passes * work.forward_s + (work.passes - 1) * work.backward_s
    passes_s = before_s / cores.per_rank + backward_s
    return StepTime(
        passes_s + work.rest_s / cores.per_rank,
        work.reduced_passes * (reduced_s - backward_s)
        + fabric.all_gather_s(gathered_bytes, ranks) * bool(gathered_bytes),
        passes_s * spread * slowest_of(ranks),
    )


def overlap(
    backward_s: float, buckets: Sequence[Bucket], fabric: Fabric, ranks: int, cores: Cores = OWN
) -> tuple[float, float]:
    """When the backward pass ends, and when the last bucket is reduced; seconds from its start.

    Buckets are reduced one after another, each when the one before is and its gradients are there.
    While one is, its core time is taken from the backward pass, unless a core is idle.
    """
    now, busy_until, taken = 0.0, 0.0, 0.0
    for before, bucket in pairwise([Bucket(0.0, 0.0), *buckets]):
        work = max(bucket.ready - before.ready, 0.0) * backward_s
        slow = max(cores.per_rank - taken, 0.1)
        beside = min(work, max(busy_until - now, 0.0) * slow)
        now += beside / slow + (work - beside) / cores.per_rank
        seconds = fabric.all_reduce_s(bucket.num_bytes, ranks)
        taken = bucket.num_bytes * cores.reduce_s_per_byte / seconds if seconds else 0.0
        busy_until = max(busy_until, now) + seconds
    return now, max(now, busy_until)


def slowest_of(ranks: int) -> float:
    """Expected maximum of standard normal values, one of each rank (Blom 1958)."""
    return NormalDist().inv_cdf((ranks - 0.375) / (ranks + 0.25)) if ranks > 1 else 0.0


def make_buckets(
    gradients: Sequence[tuple[float, float]], first_bytes: float, bytes_: float
) -> list[Bucket]:
    """Gradients in buckets, each filled until it has its size or more.

    Args:
        gradients: bytes of each, and the share of the backward pass after which it is there.
        first_bytes: size of the first bucket, which is small so that reducing begins early.
        bytes_: size of the others.
    """
    buckets, size, limit = [], 0.0, first_bytes
    for i, (num_bytes, ready) in enumerate(gradients, 1):
        size += num_bytes
        if size >= limit or i == len(gradients):
            buckets.append(Bucket(size, ready))
            size, limit = 0.0, bytes_
    return buckets
