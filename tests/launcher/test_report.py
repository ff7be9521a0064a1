"""What rwp-launch makes of the ends of its ranks on this machine."""

from pathlib import Path
from typing import Any

import pytest

from launcher.ranks import _report
from rwp_dist.process.exits import RankExit


class Ended:
    """Reports on ranks that have ended like this."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys, self.number = folder, capsys, 0

    def __call__(self, *exits: RankExit, asked: bool = False, killed: bool = False):
        self.number += 1
        logs = self.folder / str(self.number)
        for known in exits:
            known.write(logs / str(known.rank) / "error.json")
        code = _report(1, logs, asked, killed)
        return code, self.capsys.readouterr().err


@pytest.fixture
def ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Ended:
    return Ended(tmp_path, capsys)


def rank(number: int, exit_code: int, message: str = "", time: float = 2.0, **flags: Any):
    return RankExit(number, exit_code, time, "here", message, **flags)


def test_saved_only_if_a_rank_says_so(ended: Ended) -> None:
    saved = rank(0, 75, "Stopped after step 3.", said=True, shared=True)
    # torchrun may have ended the other one on its way out.
    assert ended(saved, rank(1, -15), asked=True) == (75, "")
    assert ended(saved, rank(1, -9), asked=True) == (75, "")
    silent = rank(1, 75, "Stopped after step 3.", shared=True)
    assert ended(rank(2, -15), silent, asked=True) == (75, "Stopped after step 3.\n")

    line = "Stopped before it began; nothing was lost.\n"
    stops = [rank(3, -2), rank(4, -15)]
    assert ended(*stops, asked=True) == (130, line)
    said = rank(5, 130, "Stopped.", said=True, shared=True)
    assert ended(said, *stops, asked=True) == (130, "")
    # One that waited for a stopped rank had to be killed.
    assert ended(said, rank(6, -9), asked=True) == (130, "")
    assert ended(asked=True) == (130, line)  # before there was any rank


def test_ranks_that_were_killed_have_saved_only_if_they_say_so(ended: Ended) -> None:
    code, text = ended(rank(0, -9), asked=True, killed=True)
    assert code == 130 and text.startswith("Stopped at once, without a checkpoint")
    saved = rank(0, 75, "Stopped after step 3.", said=True, shared=True)
    assert ended(saved, rank(1, -9), asked=True, killed=True) == (75, "")


def test_an_error_while_stopping_is_the_error(ended: Ended) -> None:
    full = rank(0, 1, "The disk is full.", said=True, shared=True)
    assert ended(full, rank(1, -15), asked=True) == (1, "")


def test_the_rank_that_began_it_is_named(ended: Ended) -> None:
    lost = rank(0, 1, "RuntimeError: closed by peer", lost=True)
    line = "Rank 1 was ended by SIGKILL (out of memory, perhaps).\n"
    assert ended(lost, rank(1, -9)) == (1, line)
    failed = rank(2, 1, "KeyError: 'a'", time=2.5)
    assert ended(lost, failed) == (1, "Rank 2 failed: KeyError: 'a'\n")
    alone = rank(3, 65, "Torn.", time=2.5)
    assert ended(lost, alone) == (65, "Rank 3 failed: Torn.\n")
    first = rank(0, 65, "Torn.", said=True)
    assert ended(first, rank(4, -15)) == (65, "")
    assert ended(rank(5, 7)) == (7, "Rank 5 ended with exit code 7.\n")


def test_torchrun_that_fails_itself_is_quoted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "node-0.log").write_text("Traceback\nOSError: no port is free\n")
    assert _report(1, tmp_path, asked=False, killed=False) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["Traceback", "OSError: no port is free"]
    assert lines[2].startswith("No rank has said why")
