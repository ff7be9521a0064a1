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


def opening(folder: Path, num_shards: int = SHARDS, rounds: int = ROUNDS) -> Iterator[str]:
    """Lines: CPU seconds to the first batch of a large data set, and to the one at 90 %.

    Every figure comes from a process of its own that has read a small data set before; peers take
    turns.
    """
    folder.mkdir()
    peers = [peer for peer in OPENS if not peer.package or _version(peer)]
    places = [_places(peer, folder / str(n), num_shards) for n, peer in enumerate(peers)]
    begin: dict[str, list[float]] = {peer.name: [] for peer in peers}
    resume: dict[str, list[float]] = {peer.name: [] for peer in peers}
    for _ in range(rounds):
        for peer, (small, large) in zip(peers, places, strict=True):
            for times, one, other in (
                (begin, small._replace(position=None), large._replace(position=None)),
                (resume, small, large),
            ):
                can = times is begin or large.position is not None
                if can and max(times[peer.name], default=0.0) < MOST_S:
                    times[peer.name].append(cpu_of(peer.first_batch, one, other))
    base = peers[0].name
    yield f"{'CPU s to the first batch':38s}{'x ours':>19s}{'at 90 %':>12s}{'x ours':>9s}"
    for name in begin:
        cells = [_cells(begin[name], begin[base]), _cells(resume[name], resume[base])]
        yield f"{name:38s}{cells[0]:>19s}{cells[1]:>21s}"


def _places(peer: Opens, folder: Path, num_shards: int) -> tuple[Place, Place]:
    """A small and a large data set, and where to go on in them."""
    found = []
    for place, shards in ((folder / "small", 2), (folder / "large", num_shards)):
        place.parent.mkdir(exist_ok=True)
        alone(peer.make_large, place, shards)
        found.append(Place(place, alone(peer.position, place)))
    return found[0], found[1]


def _cells(values: list[float], base: list[float]) -> str:
    """Median, and the median of the ratios of rounds; or the ratio, of what is measured once."""
    if not values:
        return "-"
    others = base if len(values) == len(base) else [statistics.median(base)]
    ratio = statistics.median(one / other for one, other in zip(values, others, strict=True))
    return f"{statistics.median(values):.3f} {ratio:7.1f}"


def _version(peer: Opens) -> str | None:
    try:
        return metadata.version(peer.package)
    except metadata.PackageNotFoundError:
        return None
