"""A run's sign of life, and the health check that looks for it."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import pytest
from support.ranks import run_ranks

from rwp_dist import train as train_module
from rwp_dist.config import load_settings
from rwp_dist.process.heartbeat import Heartbeat
from rwp_dist.shards.digits import write_digits
from rwp_dist.train import train, train_step


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("RWP_HEARTBEAT", str(tmp_path / "heartbeat"))
    return tmp_path / "heartbeat"


def health():
    command = [sys.executable, "-m", "rwp_dist.process.heartbeat"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert not done.stderr
    return done.returncode, done.stdout.strip()


def test_a_run_that_goes_on_is_healthy_and_one_that_hangs_is_not(file, monkeypatch):
    assert health() == (0, "nothing trains here, or not yet")
    with Heartbeat():
        code, text = health()
        assert code == 0 and re.fullmatch(r"last beat \d\d? s ago", text)
        past = time.time() - 1000
        os.utime(file, (past, past))
        code, text = health()
        assert code == 1 and re.fullmatch(r"last beat 10\d\d s ago", text)
        monkeypatch.setenv("RWP_HEARTBEAT_MAX_AGE_S", "2000")
        assert health()[0] == 0
    assert health() == (0, "nothing trains here, or not yet")


def test_a_disk_with_another_clock_makes_no_run_look_hung(file, monkeypatch):
    touch = Path.touch

    def touch_by_the_disk(path, **more):  # whose clock is an hour behind
        touch(path, **more)
        os.utime(path, (time.time() - 3600,) * 2)

    monkeypatch.setattr(Path, "touch", touch_by_the_disk)
    with Heartbeat():
        assert health()[0] == 0


def test_the_file_goes_when_a_run_fails(file):
    with pytest.raises(RuntimeError), Heartbeat():
        assert file.exists()
        raise RuntimeError
    assert not file.exists()


def test_it_beats_once_a_second_and_on_one_rank_of_a_node(file, monkeypatch):
    with Heartbeat() as heartbeat:
        os.utime(file, (1, 1))
        heartbeat.beat()
        assert file.stat().st_mtime == 1
        heartbeat._last -= 1.0
        heartbeat.beat()
        assert file.stat().st_mtime > 1
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    with Heartbeat():
        assert not file.exists()


def test_a_check_without_a_file_to_look_at_fails(monkeypatch):
    monkeypatch.delenv("RWP_HEARTBEAT", raising=False)
    code, text = health()
    assert code == 1 and "set it for the run" in text


def beats_of(settings, file):
    """Train; how often the file was touched, and whether it stays."""
    os.environ["RWP_HEARTBEAT"] = file
    touched = []

    def looking(*args):
        touched.append(Path(file).stat().st_mtime_ns)
        return train_step(*args)

    with (
        patch.object(train_module, "train_step", looking),
        patch("rwp_dist.process.heartbeat.INTERVAL_S", 0.0),
    ):
        train(load_settings(None, settings))
    return len(set(touched)), Path(file).exists()


def test_a_run_beats_in_every_step_until_it_ends(tmp_path):
    write_digits(tmp_path / "digits")
    settings = [
        f"data.train={tmp_path}/digits/train",
        f"data.val={tmp_path}/digits/test",
        "data.lanes=1",
        "data.workers=0",
        "schedule.steps=5",
        "run.device=cpu",
        f"run.dir={tmp_path}/run",
        "tracking.wandb=off",
    ]
    assert run_ranks(beats_of, 1, settings, str(tmp_path / "heartbeat")) == [(5, False)]
