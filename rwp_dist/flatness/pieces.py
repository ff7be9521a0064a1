"""Work in pieces: shared out among the ranks, kept on disk, and not computed again."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from rwp_dist.base.errors import RunDirError, RwpError
from rwp_dist.base.files import finite, parse_json
from rwp_dist.process.group import from_main, gathered, same_on_all_ranks

GRADIENT_PASSES, PRODUCT_PASSES = 3, 8
"""Forward passes that take as long as a gradient, and as a product with the Hessian."""

Advance = Callable[[float], object]
"""Called with the forward passes over the sample that have been done since the last call."""


@dataclass(frozen=True)
class Piece:
    """One value that takes a while to compute."""

    name: str
    passes: float
    """What it takes, in forward passes over the sample, for the progress bar."""
    request: dict[str, Any]
    """All that its value depends on."""
    compute: Callable[[], Any]
    """Gives anything JSON can hold."""
    together: bool = False
    """Whether all ranks compute it together, and tell its passes themselves; other pieces are
    computed by one rank each."""

    @property
    def key(self) -> str:
        """Another one if the request is another."""
        request = json.dumps([self.name, self.request], sort_keys=True)
        return hashlib.sha256(request.encode()).hexdigest()


def compute_pieces(path: Path, pieces: Sequence[Piece], advance: Advance) -> dict[str, Any]:
    """Values of all pieces by name, on every rank. A collective.

    Numbers that are not finite become None.

    Args:
        path: file that keeps every value as soon as it is computed, a line for each.
        pieces: names differ.
        advance: tells the progress bar.

    Raises:
        RunDirError: ``path`` cannot be written to.
        RwpError: memory does not suffice.
    """
    known = from_main(lambda: dict(_read(path)))
    advance(sum(piece.passes for piece in pieces if piece.key in known))
    missing = [piece for piece in pieces if piece.key not in known]
    for turn in _turns(missing, dist.get_world_size()):
        together = turn[0].together
        mine = turn[0] if together else dict(enumerate(turn)).get(dist.get_rank())
        with same_on_all_ranks(), enough_memory():
            value = finite(mine.compute()) if mine is not None else None
        values = [value] if together else gathered(value)[: len(turn)]
        fresh = {piece.key: value for piece, value in zip(turn, values, strict=True)}
        known |= fresh
        with same_on_all_ranks():
            if dist.get_rank() == 0:
                _append(path, fresh)
        advance(0 if together else sum(piece.passes for piece in turn))
    return {piece.name: known[piece.key] for piece in pieces}


def _turns(pieces: Sequence[Piece], world_size: int) -> Iterator[list[Piece]]:
    """What the ranks compute at the same time: one piece each, or one together."""
    alone = [piece for piece in pieces if not piece.together]
    for start in range(0, len(alone), world_size):
        yield alone[start : start + world_size]
    yield from ([piece] for piece in pieces if piece.together)


def _read(path: Path) -> Iterator[tuple[str, Any]]:
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            with suppress(
                ValueError, KeyError, TypeError
            ):  # a killed writer's last line may be torn
                kept = parse_json(line)
                yield kept["key"], kept["value"]


def _append(path: Path, fresh: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            # The newline comes first, so that a torn line spoils no other.
            for key, value in fresh.items():
                file.write("\n" + json.dumps({"key": key, "value": value}))
    except OSError as error:
        raise RunDirError(
            f"{path}: cannot be written to ({error.strerror})",
            cure="make room there, or have its permissions changed",
        ) from None


@contextmanager
def enough_memory() -> Iterator[None]:
    """Memory that does not suffice is a user's error."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        peak = torch.cuda.max_memory_allocated() / 1e9
        raise RwpError(
            f"the GPU's memory does not suffice ({peak:.1f} GB were in use)",
            key="--batch",
            cure="halve it",
        ) from error
