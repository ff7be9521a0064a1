"""Which rank failed first: one rule, whoever asks."""

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from launcher.agent import report
from launcher.ends import End, first, from_word
from launcher.failure import describe

BANNER = """
  time      : 2026-01-01_00:00:{second:02}
  host      : n{rank}
  rank      : {rank} (local_rank: {rank})
  exitcode  : {code} (pid: 17)
"""

# The later the worse, so that no order comes of the time alone.
FAILED = {"message": "KeyError: 'a'", "exit_code": 1, "time": 9e9}
FULL = {"message": "checkpoints: the disk is full.", "exit_code": 1, "time": 8e9}
SAVED = {"message": "Stopped after step 3.", "exit_code": 75, "time": 7e9, "shared": True}
LOST = {"message": "RuntimeError: closed by peer", "exit_code": 1, "time": 1.0, "lost": True}
KILLED, SILENT, TOLD = -9, 7, -15

# Worst first; a number is all that is known of a rank that has left no word.
CASES = {
    "the earliest of those that failed of themselves": [FULL, FAILED],
    "a failure before a stop": [FAILED, SAVED],
    "a stop that saved before ranks that were killed after it": [SAVED, KILLED],
    "a stop that saved before those that lost the others": [SAVED, LOST],
    "a failure before ranks without a word": [FAILED, KILLED],
    "a killed rank before those that lost it": [KILLED, LOST],
    "a silent rank before those that the agent ended": [SILENT, TOLD],
    "lost others before those that the agent ended": [LOST, TOLD],
    "all of them": [FULL, FAILED, SAVED, KILLED, LOST, TOLD],
}


def left_by(folder: Path, rank: int, how: Any) -> ProcessFailure:
    """What this rank leaves for its agent, and for who looks into the folder of a job's logs."""
    error = folder / "agents" / str(rank) / "error.json"
    error.parent.mkdir(parents=True)
    if isinstance(how, dict):
        word = {"rank": rank, "host": f"n{rank}", "timestamp": 1} | how
        error.write_text(json.dumps(word))
        code = how["exit_code"]
    else:
        code = how
    with (folder / "node-0.log").open("a") as log:
        log.write(BANNER.format(rank=rank, code=code, second=rank))
    return ProcessFailure(rank, 1000 + rank, code, str(error))


@pytest.mark.parametrize("name", CASES)
def test_agent_and_job_name_the_same_rank(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    orders = list(permutations(CASES[name]))
    for number, order in enumerate(orders[:: max(1, len(orders) // 24)]):
        folder = tmp_path / str(number)
        failures = {rank: left_by(folder, rank, how) for rank, how in enumerate(order)}
        worst = order.index(CASES[name][0])
        text, code = describe(folder)
        assert report(failures, asked=False) == code
        said = capsys.readouterr().err
        if CASES[name][0] is SAVED:
            assert code == 75 and SAVED["message"] in text and SAVED["message"] in said
        else:
            assert f"Rank {worst} on n{worst} " in text and f"Rank {worst} " in said


def test_of_ranks_without_a_word_the_earliest_counts(tmp_path: Path) -> None:
    """torchrun lists it last, and the others that it killed when they did not obey."""
    for rank in (2, 1):  # at second 2 and 1
        left_by(tmp_path, rank, KILLED)
    assert describe(tmp_path)[0].startswith("Rank 1 on n1 was ended by SIGKILL")


def test_words_of_others_are_none() -> None:
    assert from_word({"message": {"message": "x", "extraInfo": {}}, "exit_code": 1}) is None
    assert from_word({}) is None


def test_a_sentence_says_how_and_where() -> None:
    assert End(1, -11, 0.0, host="n1").describe() == "Rank 1 on n1 was ended by SIGSEGV."
    assert End(1, 7, 0.0).describe() == "Rank 1 ended with exit code 7."
    ends = [End(0, 1, 2.0, message="b"), End(1, 1, 1.0, message="a")]
    assert first(ends).describe() == "Rank 1 failed: a"
