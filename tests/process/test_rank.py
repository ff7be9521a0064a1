"""What a process does first as a rank."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
from support.mounts import small_disk
from support.until import until, until_ended

from rwp_dist.process.rank import log_of, new_attempt

RANK = """
import signal
from rwp_dist.base.parent import end_with_parent
from rwp_dist.process import rank
end_with_parent()
rank.write_to_log()
print("here", flush=True)
signal.pause()
"""

AGENT = f"""
import signal, subprocess, sys
rank = subprocess.Popen([sys.executable, "-c", {RANK!r}])
print(rank.pid, flush=True)
signal.pause()
"""


def test_logs_are_not_begun_where_there_is_no_room_for_them(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=8k") as disk:
        assert new_attempt(disk / "run") is None and list(disk.iterdir()) == []
    folder = new_attempt(tmp_path / "run")
    assert folder == tmp_path / "run/logs/attempt-1" and log_of(folder, 0).read_bytes() == b""


def test_a_rank_ends_with_its_agent_even_if_that_is_killed(tmp_path: Path) -> None:
    env = os.environ | {"RANK": "1", "WORLD_SIZE": "2", "RWP_LOGS": str(tmp_path)}
    agent = subprocess.Popen(
        [sys.executable, "-c", AGENT], env=env, stdout=subprocess.PIPE, text=True
    )
    assert agent.stdout is not None
    pid = int(agent.stdout.readline())
    log = tmp_path / "rank-1.log"
    until(lambda: log.exists() and log.read_text() == "here\n", "the rank's output in its log")
    assert psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    agent.kill()
    agent.wait()
    until_ended([pid])
