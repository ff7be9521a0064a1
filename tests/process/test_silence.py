"""A run that stands still: which rank the others wait for, told once, and no trace otherwise."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.until import until

from rwp_dist.process.silence import (
    AGREES,
    BETWEEN,
    COMPUTES,
    READS,
    Silence,
    sentence,
)

PATIENCE_S = 0.4


@pytest.mark.parametrize(
    ("known", "mute", "text"),
    [
        (
            {0: (4, AGREES), 1: (4, AGREES), 2: (3, READS)},
            [],
            "Rank 2 reads the samples of the update after 4. The others wait.",
        ),
        ({0: (4, COMPUTES), 1: (4, READS)}, [], "Rank 0 computes update 5. The others wait."),
        (
            {0: (4, COMPUTES), 1: (4, COMPUTES)},
            [],
            "All 2 ranks stand still: each computes update 5.",
        ),
        ({0: (4, READS)}, [], "Rank 0 reads the samples of the update after 5."),
        (
            {0: (4, AGREES)},
            [1],
            "Rank 1 says nothing: it is stopped, or the node is gone.",
        ),
        (
            {0: (4, AGREES)},
            [*range(1, 11)],
            "Ranks 1, 2, 3, 4, 5, 6, 7, 8 ... say nothing: they are stopped, or the node is gone.",
        ),
    ],
)
def test_the_sentence_names_the_rank_that_is_the_furthest_back(
    known: dict[int, tuple[int, int]], mute: list[int], text: str
) -> None:
    assert sentence(known, mute) == text


class Group:
    """Ranks as objects of this process, all at one place."""

    def __init__(self, folder: Path, size: int) -> None:
        self.told: list[str] = []
        self.folder = folder / "silent"
        self.ranks = [
            Silence(self.folder, rank, size, PATIENCE_S, self.told.append) for rank in range(size)
        ]

    def __enter__(self) -> "Group":
        for rank in self.ranks:
            rank.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        for rank in self.ranks:
            rank.__exit__(*exc)


def test_one_rank_tells_once_who_is_back_and_all_traces_go(tmp_path: Path) -> None:
    with Group(tmp_path, 3) as group:
        group.ranks[0].at(7, AGREES)
        group.ranks[1].at(6, READS)
        group.ranks[2].at(7, AGREES)
        until(lambda: group.told, "the sentence")
        time.sleep(PATIENCE_S)  # nothing tells that nothing more comes
        # It goes on, and again stands still.
        for rank in group.ranks:
            rank.at(7, COMPUTES)
        until(lambda: not group.folder.exists(), "the end of the folder")
        until(lambda: group.folder.exists(), "the second silence")
    assert group.told == ["Rank 1 reads the samples of the update after 7. The others wait."]
    assert list(tmp_path.iterdir()) == []


def test_a_rank_that_came_late_to_its_place_is_not_said_to_be_dead(tmp_path: Path) -> None:
    with Group(tmp_path, 2) as group:
        group.ranks[0].at(7, AGREES)
        until(lambda: group.folder.exists(), "rank 0's question", 20, every_s=0.001)
        group.ranks[1].at(6, READS)
        until(lambda: group.told, "the sentence")
    assert group.told == ["Rank 1 reads the samples of the update after 7. The others wait."]


def test_between_steps_nothing_is_told_however_long_it_takes(tmp_path: Path) -> None:
    with Group(tmp_path, 2) as group:
        for rank in group.ranks:
            rank.at(6, BETWEEN)
        until(lambda: len(list(group.folder.glob("rank-*"))) == 2, "both answers")
        time.sleep(PATIENCE_S)  # nothing tells that nothing comes
        assert group.told == []
        group.ranks[1].at(7, AGREES)  # but then rank 0 alone is at it
        until(lambda: group.told, "the sentence")
    assert group.told[0].startswith("Rank 0 evaluates, saves or reports after update 7.")


RANK = f"""
import sys, time
from pathlib import Path
from rwp_dist.process.silence import AGREES, Silence
with Silence(Path(sys.argv[1]), int(sys.argv[2]), 2, {PATIENCE_S}, lambda t: print(t, flush=True)):
    print("here", flush=True)
    time.sleep(3600)
"""


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_stopped_rank_is_named_by_the_other_one(tmp_path: Path, stopped: int) -> None:
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(tmp_path / "silent"), str(rank)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (stopped, 1 - stopped)
    ]
    try:
        victim, other = ranks
        assert victim.stdout is not None and victim.stdout.readline() == "here\n"
        os.kill(victim.pid, signal.SIGSTOP)
        assert other.stdout is not None and other.stdout.readline() == "here\n"
        assert other.stdout.readline().startswith(f"Rank {stopped} says nothing: it is stopped")
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()


def test_who_has_no_patience_to_lose_has_no_thread(tmp_path: Path) -> None:
    silence = Silence(tmp_path, 0, 1, float("inf"), print)
    with silence:
        assert silence._thread.ident is None


def test_of_many_ranks_only_the_lowest_reads_what_the_others_are_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank in range(60):
        (tmp_path / f"rank-{rank}").write_text("4 0" if rank != 7 else "3 2")
    reads: list[Path] = []
    read_text = Path.read_text

    def counted(self: Path, *args: str) -> str:
        reads.append(self)
        return read_text(self, *args)

    monkeypatch.setattr(Path, "read_text", counted)
    told: list[str] = []
    ranks = [Silence(tmp_path, rank, 60, 300.0, told.append) for rank in range(60)]
    assert [rank._tell_if_mine() for rank in ranks] == [True] + 59 * [False]
    assert len(reads) == 60 and told[0].startswith("Rank 7 reads")
