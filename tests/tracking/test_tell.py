"""The launcher's alerts reach W&B, although the run's own process is dead."""

import sys

from support.tracked import log, start

from launcher import alerts
from rwp_dist.process.webhook import Alert
from rwp_dist.record.directory import RunDir


def test_a_run_that_is_given_up_is_told_in_wandb(tmp_path, server):
    run = RunDir(tmp_path)
    tracker = start(run)
    log(tracker, 10)
    tracker.close("failed")
    run.write_status("failed", 10, 40, message="KeyError: 1")
    alerts.gave_up(run, "Given up after 3 attempts.")
    (alert,) = server.runs[run.wandb_id()].alerts
    assert alert["title"] == "Given up" and alert["severity"] == "ERROR"
    assert "KeyError: 1" in alert["text"]


def test_a_run_that_is_not_in_wandb_starts_nothing(tmp_path, monkeypatch):
    run = RunDir(tmp_path)
    monkeypatch.setattr(alerts, "_tell_wandb", lambda *_: sys.exit("started"))
    alerts.gave_up(run, "Given up.")


def test_a_server_that_is_away_changes_nothing(tmp_path, server, monkeypatch, capfd):
    run = RunDir(tmp_path)
    start(run).close("failed")
    server.stop()
    monkeypatch.setattr(alerts, "WANDB_TIMEOUT_S", 2.0)
    alerts._tell_wandb(run, Alert("gave_up", "Given up", "Why.", "ERROR"))
    assert "".join(capfd.readouterr()).count("Traceback") == 0
    server.restart()
