"""Which rank failed first, and what is said of it: one rule, here and on a cluster."""

import json
import subprocess
import sys
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from support.until import HANG_S

from launcher.diagnosis import describe, explain, first_failure
from rwp_dist.process.exits import RankExit, read_exits

# The later the worse, so that no order comes of the time alone.
FAILED = {"message": "KeyError: 'a'", "exit_code": 1, "time": 9e9}
FULL = {"message": "checkpoints: the disk is full.", "exit_code": 1, "time": 8e9}
SAVED = {"message": "Stopped after step 3.", "exit_code": 75, "time": 7e9, "shared": True}
KILLED = {"exit_code": -9, "time": 6e9}
SILENT = {"exit_code": 7, "time": 5e9}
LOST = {"message": "RuntimeError: closed by peer", "exit_code": 1, "time": 4e9, "lost": True}
TOLD = {"exit_code": -15, "time": 3e9}

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
"""Ends of ranks, the one that counts first."""


def leave(logs: Path, rank: int, **known: Any) -> RankExit:
    """Write this end where a rank, or its agent for it, does."""
    known = {"exit_code": 1, "time": 100.0 - rank, "host": f"n{rank}"} | known
    exit_ = RankExit(rank=rank, **known)
    exit_.write(logs / "agents" / f"17.0_{rank}" / "attempt_0" / "0" / "error.json")
    return exit_


def explained(logs: Path) -> tuple[str, int]:
    return explain(first_failure(read_exits(logs)), logs)


@pytest.mark.parametrize("name", CASES)
def test_the_rank_that_began_it_counts_in_any_order(name: str, tmp_path: Path) -> None:
    orders = list(permutations(CASES[name]))
    for number, order in enumerate(orders[:: max(1, len(orders) // 24)]):
        for rank, known in enumerate(order):
            leave(tmp_path / str(number), rank, **known)
        failure = first_failure(read_exits(tmp_path / str(number)))
        assert failure is not None and failure.rank == order.index(CASES[name][0])


def test_the_log_of_the_rank_that_failed_comes_before_the_sentence(tmp_path: Path) -> None:
    leave(tmp_path, 2, message="RuntimeError: Connection closed by peer", lost=True)
    leave(tmp_path, 1, message="ZeroDivisionError: of weights")
    (tmp_path / "rank-1.log").write_text("a\nTraceback\nZeroDivisionError: of weights\n")
    text, code = explained(tmp_path)
    assert code == 1
    assert text.splitlines() == [
        "a",
        "Traceback",
        "ZeroDivisionError: of weights",
        "Rank 1 on n1 failed: ZeroDivisionError: of weights",
        f"Its log: {tmp_path}/rank-1.log",
    ]


def test_the_earliest_counts_whatever_its_offset_and_torchrun_reads_whole_seconds(
    tmp_path: Path,
) -> None:
    for number in (1, 2):
        leave(tmp_path, number, **FAILED, host="n1")
    first, last = sorted(tmp_path.rglob("error.json"))
    known = json.loads(last.read_text())
    assert known["timestamp"] == 9_000_000_000 and known["time"] == "2255-03-14T16:00:00.000+00:00"
    known["time"] = "2255-03-14T17:59:59.000+02:00"  # one second before the other's
    last.write_text(json.dumps(known))
    failure = first_failure(read_exits(tmp_path))
    assert failure is not None and failure.rank == 2
    first.write_text(json.dumps(known | {"rank": 1, "time": 8e9}))  # by an earlier version
    failure = first_failure(read_exits(tmp_path))
    assert failure is not None and failure.rank == 1


def test_what_all_ranks_say_is_said_once(tmp_path: Path) -> None:
    for rank in (0, 1):
        leave(tmp_path, rank, message="run.dir: holds another run.", exit_code=2, shared=True)
    assert explained(tmp_path) == ("run.dir: holds another run.", 2)


def test_torn_words_and_none_at_all_leave_the_logs_to_name(tmp_path: Path) -> None:
    leave(tmp_path, 0, message="x")
    next(tmp_path.rglob("error.json")).write_text('{"rank": 0, "mess')
    text, code = explained(tmp_path)
    assert code == 1 and str(tmp_path) in text and "agent or its node is gone" in text


@pytest.mark.parametrize(
    "text", ["{}", "[]", '{"message": {"message": "x", "extraInfo": {}}, "exit_code": 1}']
)
def test_files_of_others_are_ignored(text: str, tmp_path: Path) -> None:
    (tmp_path / "error.json").write_text(text)
    assert list(read_exits(tmp_path)) == []


def test_a_sentence_says_how_and_where() -> None:
    assert describe(RankExit(1, -11, 0.0, host="n1")) == "Rank 1 on n1 was ended by SIGSEGV."
    assert describe(RankExit(1, 7, 0.0), host=False) == "Rank 1 ended with exit code 7."


def test_the_agent_writes_down_a_rank_that_was_killed_and_prints_nothing(tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(
        "import os, signal, time\n"
        "if os.environ['RANK'] == '1': os.kill(os.getpid(), signal.SIGKILL)\n"
        "time.sleep(3600)\n"
    )
    agent = [sys.executable, "-m", "launcher.agent", str(tmp_path), "0"]
    torchrun = ["--standalone", "--local-addr=127.0.0.1", "--nproc-per-node=2", str(script)]
    done = subprocess.run([*agent, *torchrun], capture_output=True, timeout=HANG_S)
    assert done.returncode == 1
    assert (done.stdout, done.stderr) == (b"", b"")
    assert "ChildFailedError" in (tmp_path / "node-0.log").read_text()
    (known,) = (known for known in read_exits(tmp_path) if known.exit_code == -9)
    assert known.rank == 1 and known.message == ""
    text, code = explained(tmp_path)
    assert code == 1
    assert text.endswith("was ended by SIGKILL (out of memory, perhaps).")
