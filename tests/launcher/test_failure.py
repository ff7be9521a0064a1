"""The last lines of a job's log: which rank failed, why, and where its log is."""

import json
import subprocess
import sys
from pathlib import Path

from launcher.failure import describe, read_ends


def word(logs: Path, rank: int, message: str, exit_code: int = 1, **more: object) -> None:
    folder = logs / "agents" / f"17.0_{rank}" / "attempt_0" / "0"
    folder.mkdir(parents=True)
    about = {"rank": rank, "host": f"n{rank}", "message": message, "exit_code": exit_code}
    (folder / "error.json").write_text(json.dumps(about | {"time": 100.0 - rank} | more))


def test_the_rank_that_failed_of_itself_comes_before_those_that_lost_it(tmp_path: Path) -> None:
    word(tmp_path, 2, "RuntimeError: Connection closed by peer", lost=True)
    word(tmp_path, 1, "ZeroDivisionError: of weights")
    (tmp_path / "rank-1.log").write_text("a\nTraceback\nZeroDivisionError: of weights\n")
    text, code = describe(tmp_path)
    assert code == 1
    assert text.splitlines() == [
        "a",
        "Traceback",
        "ZeroDivisionError: of weights",
        "Rank 1 on n1 failed: ZeroDivisionError: of weights",
        f"Its log: {tmp_path}/rank-1.log",
    ]


def test_what_all_ranks_say_is_said_once(tmp_path: Path) -> None:
    for rank in (0, 1):
        word(tmp_path, rank, "run.dir: holds another run.", exit_code=2, shared=True)
    assert describe(tmp_path) == ("run.dir: holds another run.", 2)


def test_a_stop_is_none_of_ranks_that_failed_before(tmp_path: Path) -> None:
    word(tmp_path, 0, "Stopped after step 3.", exit_code=75, shared=True)
    assert describe(tmp_path) == ("Stopped after step 3.", 75)
    word(tmp_path, 1, "CheckpointError: torn", exit_code=65)
    assert describe(tmp_path)[1] == 65


def test_torn_words_and_none_at_all_leave_the_logs_to_name(tmp_path: Path) -> None:
    word(tmp_path, 0, "x")
    next(tmp_path.rglob("error.json")).write_text('{"rank": 0, "mess')
    text, code = describe(tmp_path)
    assert code == 1 and str(tmp_path) in text and "agent or its node is gone" in text


def test_a_rank_that_was_killed_is_found_in_what_torchrun_says(tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(
        "import os, signal, time\n"
        "if os.environ['RANK'] == '1': os.kill(os.getpid(), signal.SIGKILL)\n"
        "time.sleep(60)\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    with (tmp_path / "node-0.log").open("w") as log:
        subprocess.run([*command, "--nproc-per-node=2", str(script)], stderr=log, timeout=60)
    (end,) = (end for end in read_ends(tmp_path) if end.exit_code == -9)
    assert end.rank == 1 and end.message == ""
    text, code = describe(tmp_path)
    assert code == 1
    assert text.splitlines()[-2].endswith("was ended by SIGKILL (out of memory, perhaps).")
