"""Loss and top-1 on a line or a plane through weight space, around one run or between several."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from rwp_dist.base.errors import ConfigError
from rwp_dist.flatness.directions import direction, moved
from rwp_dist.flatness.landscape import Landscape, Sums
from rwp_dist.flatness.measured import Values
from rwp_dist.flatness.pieces import Piece
from rwp_dist.perturb.reference import Tensors
from rwp_dist.perturb.statistics import copy_statistics, load_statistics, tracking_layers

BETWEEN = "--slice between"

POINTS, LINE_POINTS = 21, 49
"""Along each side of a plane, and along a line: both ends of a line between runs are points."""

REACH = 0.5
"""How far a slice around a run goes: each filter moves by so much of its own norm."""

FLAT = 1e-4
"""Height of a triangle of three runs, over its base, below which rounding decides the plane."""

MARGIN = 0.25
"""How far a slice between runs goes beyond them, in distances of the first two."""


@dataclass(frozen=True)
class Slice:
    """A line or a plane of points ``w + x a + y b``, with ``w`` the weights of a run."""

    kind: str
    """``around`` or ``between``."""
    landscape: Landscape
    axes: tuple[Tensors, ...]
    """a, or a and b."""
    x: Values
    y: Values
    """One zero for a line."""
    runs: dict[str, tuple[float, float]]
    """Where runs are, by name."""
    identity: dict[str, Any]
    """What its values depend on."""
    relearn: bool
    """Whether BatchNorm's statistics are learnt anew at each point, from the sample."""

    def pieces(self) -> list[Piece]:
        """A piece for each row of a plane, three for a line."""
        points = [(float(x), float(y)) for y in self.y for x in self.x]
        rows = [points[i : i + POINTS] for i in range(0, len(points), POINTS)]
        return [
            Piece(
                f"{self.kind}-{len(self.axes)}d-{number}",
                len(row) * (1 + self.relearn),
                self.identity | {"points": row},
                partial(self.measure, row),
            )
            for number, row in enumerate(rows)
        ]

    def measure(self, points: Sequence[tuple[float, float]]) -> list[Sums]:
        """Of some points."""
        found = []
        for point in points:
            weights = moved(self.landscape.weights, *zip(point, self.axes, strict=False))
            with relearnt(self.landscape, weights) if self.relearn else nullcontext():
                found.append(self.landscape.sums(weights))
        return found

    def as_dict(self, values: dict[str, Any]) -> dict[str, Any]:
        """For JSON, from the values of its pieces: loss (nats) and top-1 (percent), ``[y, x]``."""
        sums = np.array([each for p in self.pieces() for each in values[p.name]], dtype=float)
        loss, hits, count = sums.T.reshape(3, len(self.y), len(self.x))
        return {
            **{"kind": self.kind, "runs": self.runs, "x": self.x.tolist(), "y": self.y.tolist()},
            **{"loss": (loss / count).tolist(), "top1": (100 * hits / count).tolist()},
        }


def around(landscape: Landscape) -> list[Slice]:
    """A line and a plane around a run, along its first two random directions."""
    axes = direction(landscape, 0), direction(landscape, 1)
    line, side = (np.linspace(-REACH, REACH, points) for points in (LINE_POINTS, POINTS))
    common = {landscape.name: (0.0, 0.0)}, landscape.identity, False
    return [
        Slice("around", landscape, axes[:1], line, np.zeros(1), *common),
        Slice("around", landscape, axes, side, side, *common),
    ]


def between(runs: Sequence[Landscape]) -> Slice:
    """The line through two runs, or the plane through three; in distances of the first two.

    BatchNorm's statistics belong to weights, and no run has learnt those of the weights in between.
    So they are learnt anew at each point, as by Garipov et al. (NeurIPS 2018, arXiv 1802.10026),
    who also draw such planes.

    Raises:
        ConfigError: the runs are of different networks, or not two or three, or on one line.
    """
    shapes = [{name: value.shape for name, value in run.weights.items()} for run in runs]
    if len(runs) not in (2, 3):
        raise ConfigError(
            f"it goes through two or three runs, and here are {len(runs)}",
            key=BETWEEN,
            cure="name those that it shall go through",
        )
    if shapes.count(shapes[0]) < len(shapes):
        raise ConfigError(
            "the runs have different networks", key=BETWEEN, cure="name runs of one network"
        )
    start = runs[0].weights
    a, *rest = [moved(run.weights, (-1, start)) for run in runs[1:]]
    axes, places, far = [a], [(0.0, 0.0), (1.0, 0.0)], _dot(a, a)
    if not far:
        raise _on_one_line("the first two runs have the same weights")
    x, y = np.linspace(-MARGIN, 1 + MARGIN, LINE_POINTS), np.zeros(1)
    if rest:
        share = _dot(a, rest[0]) / far
        b = moved(rest[0], (-share, a))  # at a right angle to a
        height = (_dot(b, b) / far) ** 0.5
        if height < FLAT:
            raise _on_one_line("the weights of the three runs are on one line")
        axes.append({name: value / height for name, value in b.items()})
        places.append((share, height))
        x, y = (
            np.linspace(min(side) - MARGIN, max(side) + MARGIN, POINTS)
            for side in zip(*places, strict=True)
        )
    names = dict(zip((run.name for run in runs), places, strict=True))
    identity = {"runs": [run.identity for run in runs]}
    return Slice("between", runs[0], tuple(axes), x, y, names, identity, True)


def _on_one_line(what: str) -> ConfigError:
    return ConfigError(what, key=BETWEEN, cure="name runs that were trained in different ways")


@contextmanager
def relearnt(landscape: Landscape, weights: Tensors) -> Iterator[None]:
    """BatchNorm's statistics of other weights inside the block, averaged over the sample."""
    layers = tracking_layers(landscape.model)
    before, momenta = copy_statistics(layers), [layer.momentum for layer in layers]
    try:
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # the plain mean over batches
            layer.train()
        if layers:
            landscape.sums(weights)
        landscape.model.eval()
        yield
    finally:
        landscape.model.eval()
        load_statistics(layers, before)
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


def _dot(a: Tensors, b: Tensors) -> float:
    return float(torch.stack([(a[name] * b[name]).sum() for name in a]).sum())
