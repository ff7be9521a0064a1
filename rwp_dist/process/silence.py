"""Notices that a run stands still, and which rank the others wait for. Imports no torch.

A rank that hangs makes all others wait for it inside a collective, so each would look alike from
outside. Here a thread of each rank knows what its rank is at. If that has not changed for long, it
says so in a folder that all ranks see, and each writes there what it is at. The rank that is the
furthest back, or that writes nothing, is the one that the others wait for. As long as all goes
well there is no folder.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from shutil import rmtree
from typing import Final

from rwp_dist.base.disk import replace

AGREES, COMPUTES, READS, BETWEEN = range(4)
"""What a rank is at, in the order of a step of the loop (``train.py``)."""

DOES: Final = (
    "waits for the other ranks before update {next}",
    "computes update {next}",
    "reads the samples of the update after {next}",
    "evaluates, saves or reports after update {next}",
)


PATIENCE_AT_END_S = 5.0
"""How long the end waits for the thread, which a dead disk may hold, in seconds."""


class Silence:
    """Watches one rank, from ``__enter__`` to ``__exit__``. ``at`` is cheap enough for each step.

    Nothing is told while all ranks are between steps: an evaluation may take as long as it likes.
    """

    def __init__(
        self,
        folder: Path,
        rank: int,
        world_size: int,
        patience_s: float,
        tell: Callable[[str], None],
    ) -> None:
        """
        Args:
            folder: of the whole group, made when it is needed; each rank writes a file there.
            rank: of this process.
            world_size: number of ranks.
            patience_s: seconds that a rank may be at one thing; infinite: nobody watches.
            tell: gets a sentence about the silent ranks, once, from a thread, on one rank.
        """
        self._folder, self._rank, self._world_size = folder, rank, world_size
        self._path = folder / f"rank-{rank}"
        self._marks = folder / "stuck"
        self._stuck = self._marks / f"{rank}"
        self._written: tuple[int, int] | None = None
        self._patience_s, self._tell = patience_s, tell
        self._place = (0, AGREES)
        self._changed = time.monotonic()
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="silence", daemon=True)

    def at(self, step: int, what: int) -> None:
        """Say what this rank begins now: one of ``AGREES`` to ``BETWEEN`` of a step from 0."""
        self._place, self._changed = (step, what), time.monotonic()

    def __enter__(self) -> "Silence":
        self._changed = time.monotonic()
        if self._patience_s < float("inf"):
            if self._rank == 0:  # what an attempt that was killed left, perhaps of more ranks
                rmtree(self._folder, ignore_errors=True)
            self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._left.set()
        if self._thread.ident is not None:
            self._thread.join(PATIENCE_AT_END_S)

    def _watch(self) -> None:
        told, tick_s = False, self._patience_s / 20
        stuck_since: float | None = None
        seen = time.monotonic()
        while not self._left.wait(tick_s):
            now = time.monotonic()
            if now - seen > 4 * tick_s:  # this process stood still: its clock tells nothing
                self._changed = now
            seen = now
            with suppress(OSError):
                if now - self._changed < self._patience_s:
                    stuck_since = None
                    if not self._folder.exists():  # one look, because there may be many ranks
                        continue
                    self._unmark()
                    self._answer() if self._marks.exists() else self._forget()
                    continue
                self._marks.mkdir(parents=True, exist_ok=True)
                self._stuck.touch()
                self._answer()
                stuck_since = stuck_since or now
                # The others look for that now and then, and a shared disk shows files late.
                if now - stuck_since > self._patience_s / 5 and not told:
                    told = self._tell_if_mine()
        self._forget()

    def _answer(self) -> None:
        """Write what this rank is at, for the others."""
        if self._written != self._place:
            self._written = self._place
            part = self._path.with_suffix(".part")
            part.write_text("{} {}".format(*self._written), encoding="utf-8")
            replace(part, self._path)

    def _forget(self) -> None:
        """Remove this rank's files, and the folder if they were the last ones."""
        self._written = None
        if self._folder.exists():
            with suppress(OSError):
                self._unmark()
                self._path.unlink(missing_ok=True)
                self._folder.rmdir()

    def _unmark(self) -> None:
        """Say that this rank is not stuck; the folder is gone when no rank is."""
        self._stuck.unlink(missing_ok=True)
        with suppress(OSError):
            self._marks.rmdir()

    def _tell_if_mine(self) -> bool:
        """Tell who is silent, if this is the lowest rank that can; whether it did."""
        if any((self._folder / f"rank-{rank}").exists() for rank in range(self._rank)):
            return False  # a lower rank tells, and one look is enough to know that
        known: dict[int, tuple[int, int]] = {}
        for rank in range(self._world_size):
            with suppress(OSError, ValueError):
                step, what = (self._folder / f"rank-{rank}").read_text("utf-8").split()
                known[rank] = int(step), int(what)
        mute = [rank for rank in range(self._world_size) if rank not in known]
        if not mute and all(what == BETWEEN for _, what in known.values()):
            return False
        self._tell(sentence(known, mute))
        return True


def sentence(known: dict[int, tuple[int, int]], mute: list[int]) -> str:
    """Which ranks a run waits for, and what they are at.

    Args:
        known: step from 0 and what it is at, by rank, of those that said so.
        mute: ranks that said nothing.
    """
    if mute:
        them = "says nothing: it is stopped" if len(mute) == 1 else "say nothing: they are stopped"
        return f"{names(mute)} {them}, or the node is gone."
    last = min(known.values())
    behind = [rank for rank, place in known.items() if place == last]
    does = DOES[last[1]].format(next=f"{last[0] + 1:,}")
    if len(behind) == len(known) > 1:
        return f"All {len(known)} ranks stand still: each {does}."
    more = ", each" if len(behind) > 1 else ""
    waiting = " The others wait." if len(behind) < len(known) else ""
    return f"{names(behind)}{more} {does}.{waiting}"


def names(ranks: list[int]) -> str:
    """``Rank 3``, ``Ranks 3, 4``; of many only the first."""
    shown = ", ".join(map(str, ranks[:8])) + (" ..." if len(ranks) > 8 else "")
    return f"Rank{'s' if len(ranks) > 1 else ''} {shown}"
