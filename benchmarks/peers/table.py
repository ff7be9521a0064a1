"""Measure the peers that are installed here."""

import statistics
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from growing.process import alone, cpu_of

from peers.folder import Folder
from peers.lit import Lit
from peers.mosaic import Mosaic
from peers.ours import Ours
from peers.peer import SHARDS, Opens, Place, Reads
from peers.web import Web

ROUNDS, MOST_S = 3, 20.0
"""What takes longer is measured once."""
READS: tuple[Reads, ...] = (Mosaic(), Lit())
OPENS: tuple[Opens, ...] = (Ours(anew=False), Ours(anew=True), *READS, Web(), Folder())
CAN_INSTALL = "pip install litdata mosaicml-streaming, in an environment of its own"


def versions() -> Iterator[str]:
    """A line for each peer: its version, or that it is not installed."""
    for peer in OPENS:
        if peer.package:
            found = _version(peer)
            yield f"{peer.name} {found}" if found else f"{peer.name} is left out: {CAN_INSTALL}"


def readers() -> list[Reads]:
    """Those with formats of their own that are installed."""
    return [peer for peer in READS if _version(peer)]


def opening(folder: Path, num_shards: int = SHARDS) -> Iterator[str]:
    """Lines: CPU seconds to the first batch of a large data set, and to the one at 90 %.

    Every figure comes from a process of its own that has read a small data set before; peers take
    turns.
    """
    folder.mkdir()
    peers = [peer for peer in OPENS if not peer.package or _version(peer)]
    begin: dict[str, list[float]] = {peer.name: [] for peer in peers}
    resume: dict[str, list[float]] = {peer.name: [] for peer in peers}
    places = {}
    for number, peer in enumerate(peers):
        small, large = folder / f"small-{number}", folder / f"large-{number}"
        alone(peer.make_large, small, 2)
        alone(peer.make_large, large, num_shards)
        places[peer.name] = [
            Place(place, position)
            for place in (small, large)
            for position in (None, alone(peer.position, place))
        ]
    for _ in range(ROUNDS):
        for peer in peers:
            first, first_later, last, last_later = places[peer.name]
            if max(begin[peer.name], default=0.0) < MOST_S:
                begin[peer.name].append(cpu_of(peer.first_batch, first, last))
            can = last_later.position is not None
            if can and max(resume[peer.name], default=0.0) < MOST_S:
                resume[peer.name].append(cpu_of(peer.first_batch, first_later, last_later))
    base = peers[0].name
    yield f"{'CPU s to the first batch':38s}{'x ours':>19s}{'at 90 %':>12s}{'x ours':>9s}"
    for name in begin:
        cells = [_cells(begin[name], begin[base]), _cells(resume[name], resume[base])]
        yield f"{name:38s}{cells[0]:>19s}{cells[1]:>21s}"


def _cells(values: list[float], base: list[float]) -> str:
    """Median, and the median of the ratios of rounds."""
    if not values:
        return "-"
    ratio = statistics.median(one / other for one, other in zip(values, base, strict=False))
    return f"{statistics.median(values):.3f} {ratio:7.1f}"


def _version(peer: Opens) -> str | None:
    try:
        return metadata.version(peer.package)
    except metadata.PackageNotFoundError:
        return None
