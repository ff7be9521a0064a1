"""What the agent makes of the ends of its ranks."""

import json
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from launcher.agent import report


def ended(folder: Path, rank: int, exitcode: int, **word: Any) -> ProcessFailure:
    path = folder / f"{rank}.json"
    if word:
        known = {"message": "Gone.", "timestamp": 1, "exit_code": exitcode}
        known |= {"rank": rank, "host": "here"}
        path.write_text(json.dumps(known | word))
    return ProcessFailure(rank, 1000 + rank, exitcode, str(path))


def outcome(
    capsys: pytest.CaptureFixture[str], *ends: ProcessFailure, asked: bool = False
) -> tuple[int, str]:
    code = report({end.local_rank: end for end in ends}, asked)
    return code, capsys.readouterr().err


def test_saved_only_if_a_rank_says_so(tmp_path: Path, capsys: Any) -> None:
    saved = ended(tmp_path, 0, 75, time=2.0, said=True, shared=True)
    # Torch's agent may have ended the other one on its way out.
    assert outcome(capsys, saved, ended(tmp_path, 1, -15), asked=True) == (75, "")
    late = ended(tmp_path, 0, -9, exit_code=75, time=2.0, said=True, shared=True)
    assert outcome(capsys, late, ended(tmp_path, 1, -9), asked=True)[0] == 75
    silent = ended(tmp_path, 1, 75, time=2.0, said=False, shared=True)
    assert outcome(capsys, ended(tmp_path, 2, -15), silent, asked=True) == (75, "Gone.\n")

    lines = "Stopped before it began; nothing was lost.\n"
    stops = [ended(tmp_path, 3, -2), ended(tmp_path, 4, -15)]
    assert outcome(capsys, *stops, asked=True) == (130, lines)
    said = ended(tmp_path, 5, 130, time=2.0, said=True, shared=True)
    assert outcome(capsys, said, *stops, asked=True) == (130, "")
    # One that waited for a stopped rank had to be killed.
    assert outcome(capsys, said, ended(tmp_path, 6, -9), asked=True) == (130, "")
    assert outcome(capsys, asked=True) == (0, "")


def test_an_error_while_stopping_is_the_error(tmp_path: Path, capsys: Any) -> None:
    full = ended(tmp_path, 0, 1, time=2.0, said=True, shared=True)
    assert outcome(capsys, full, ended(tmp_path, 1, -15), asked=True) == (1, "")


def test_the_rank_that_began_it_is_named(tmp_path: Path, capsys: Any) -> None:
    lost = ended(tmp_path, 0, 1, time=2.0, lost=True, message="RuntimeError: closed by peer")
    killed = ended(tmp_path, 1, -9)
    line = "Rank 1 was ended by SIGKILL (out of memory, perhaps).\n"
    assert outcome(capsys, lost, killed) == (1, line)
    failed = ended(tmp_path, 2, 1, time=2.5, message="KeyError: 'a'", lost=False)
    line = "Rank 2 failed: KeyError: 'a'\n"
    assert outcome(capsys, lost, failed) == (1, line)
    alone = ended(tmp_path, 3, 65, time=2.5, said=True, shared=False)
    assert outcome(capsys, lost, alone) == (65, "Rank 3 failed: Gone.\n")
    assert outcome(capsys, alone, ended(tmp_path, 4, -15)) == (65, "")
    silent = ended(tmp_path, 5, 7)
    line = "Rank 5 ended with exit code 7.\n"
    assert outcome(capsys, silent) == (7, line)
