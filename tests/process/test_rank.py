"""What a process does first as a rank."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

RANK = """
import signal
from rwp_dist.process import rank
rank.end_with_parent()
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


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_rank_ends_with_its_agent_even_if_that_is_killed(tmp_path: Path) -> None:
    env = os.environ | {"RANK": "1", "WORLD_SIZE": "2", "RWP_LOGS": str(tmp_path)}
    agent = subprocess.Popen(
        [sys.executable, "-c", AGENT], env=env, stdout=subprocess.PIPE, text=True
    )
    assert agent.stdout is not None
    pid = int(agent.stdout.readline())
    deadline = time.monotonic() + 20
    log = tmp_path / "rank-1.log"
    while not (log.exists() and log.read_text() == "here\n"):  # and its output is there
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert alive(pid)
    agent.send_signal(signal.SIGKILL)
    agent.wait()
    while alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)
