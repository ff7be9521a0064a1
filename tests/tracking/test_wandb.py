"""W&B against a server on loopback that speaks its protocol, and keeps what it gets."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.tracked import finish, log, settings, start
from support.until import HANG_S, until
from support.wandb_server import KEY, WandbServer

from rwp_dist.base.errors import RwpError
from rwp_dist.process.webhook import Alert
from rwp_dist.record.directory import RunDir
from rwp_dist.tracking import connection, open_tracker
from rwp_dist.tracking import wandb as sink
from rwp_dist.tracking.connection import end_service
from rwp_dist.tracking.projection import row_of
from rwp_dist.tracking.sync import sync, sync_all

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.usefixtures("no_account"),
    # Of W&B's own threads, when its service is killed or ended.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]


def assert_equal(server: WandbServer, run: RunDir) -> None:
    """W&B's history holds exactly the records, each once, with their values, order and times."""
    recorded = server.runs[run.wandb_id()]
    shown = [
        {name: value for name, value in row.items() if name not in ("_step", "_runtime")}
        for row in recorded.rows
    ]
    key = lambda row: sorted(row.items())  # noqa: E731
    assert sorted(shown, key=key) == sorted(map(row_of, run.read_metrics()), key=key)
    assert len(set(recorded.seen())) == len(recorded.seen())
    summary = run.read_summary()
    if summary is not None:
        given = {name: value for name, value in summary.items() if value is not None}
        assert given.items() <= recorded.summary.items()


def test_a_run_is_sent_as_it_is_in_metrics_jsonl(tmp_path, server, capsys):
    run = RunDir(tmp_path / "run")
    run.create()
    run.write_environment({"git": {"commit": "abc", "dirty": False}, "world_size": 2})
    tracker = start(run, 0, "tracking.tags=[night]")
    log(tracker, 10, 20)
    finish(tracker, run)
    assert_equal(server, run)
    recorded = server.runs[run.wandb_id()]
    assert recorded.seen() == [("train", 10), ("train", 20), ("eval", 20)]
    assert (recorded.exit_code, recorded.preempting) == (0, False)
    assert recorded.setting("groupName") == "m-rwp"
    assert recorded.setting("displayName") == "m-rwp-seed3"
    assert recorded.setting("tags") == ["m-rwp", "small_cnn", "night"]
    assert recorded.config["batch"]["value"]["global"] == 64
    assert recorded.config["git_commit"]["value"] == "abc"
    assert recorded.config["world_size"]["value"] == 2
    out, err = capsys.readouterr()
    assert f"W&B: {server.url}/team/rwp-dist/runs/{run.wandb_id()}" in out.splitlines()
    assert KEY not in out + err
    for file in run.path.rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes(), file


def test_a_resumed_run_has_each_step_once(tmp_path, server):
    run = RunDir(tmp_path)
    tracker = start(run)
    log(tracker, 10, 20, 30)
    tracker.close("interrupted")
    assert server.runs[run.wandb_id()].preempting
    tracker = start(run, first_step=20)
    log(tracker, 30, 40)
    finish(tracker, run)
    seen = server.runs[run.wandb_id()].seen()
    assert sorted(seen) == [("eval", 20), ("eval", 40), *(("train", n) for n in (10, 20, 30, 40))]


def test_records_that_an_earlier_attempt_could_not_send_are_sent_again(tmp_path, server):
    run = RunDir(tmp_path)
    tracker = start(run, 0, "tracking.wandb=offline")
    log(tracker, 10, 20)
    tracker.close("failed")
    assert server.runs == {}
    tracker = start(run, first_step=20)
    log(tracker, 30, 40)
    finish(tracker, run)
    assert_equal(server, run)


def test_a_server_that_was_away_gets_all_of_it(tmp_path, server, monkeypatch, capsys):
    monkeypatch.setattr(sink, "RETRY_S", 0.2)
    monkeypatch.setattr(connection, "INIT_TIMEOUT_S", 1.0)
    server.stop()
    run = RunDir(tmp_path)
    tracker = start(run)
    log(tracker, 10, 20)
    said = ""

    def told():
        nonlocal said
        said += capsys.readouterr().out
        return "W&B is away" in said

    until(told, lambda: said)
    assert f"with: rwp-dist sync {run.path}" in said
    server.restart()
    until(lambda: run.wandb_id() in server.runs, "the run")
    log(tracker, 30, 40)
    finish(tracker, run)
    assert_equal(server, run)
    assert "W&B is away" not in capsys.readouterr().out  # said once


@pytest.mark.parametrize("trouble", ["refuses", "500", "507", "hangs"])  # 507: it is full
def test_a_server_in_trouble_costs_no_time_and_sync_sends_all_later(
    trouble, tmp_path, server, monkeypatch, capsys
):
    monkeypatch.setattr(connection, "INIT_TIMEOUT_S", 1.0)
    monkeypatch.setattr(sink, "FINISH_TIMEOUT_S", 1.0)
    if trouble == "refuses":
        server.stop()
    elif trouble.isdigit():
        server.broken = int(trouble)
    else:
        server.delay_s = HANG_S
    run = RunDir(tmp_path)
    tracker = start(run)
    slowest = 0.0
    for step in range(10, 50, 10):
        begin = time.perf_counter()
        log(tracker, step)
        slowest = max(slowest, time.perf_counter() - begin)
    assert slowest < 5
    begin = time.perf_counter()
    finish(tracker, run)
    assert time.perf_counter() - begin < HANG_S / 2
    out = capsys.readouterr().out
    assert out.count(f"rwp-dist sync {run.path}") in (1, 2)
    assert "W&B lacks records of this run" in out
    server.broken, server.delay_s = None, 0.0
    server.released.set()
    if trouble == "refuses":
        server.restart()
    assert not sync(run).missing
    assert_equal(server, run)


def service_process():
    """W&B's service; what an earlier test has killed is a zombie as long as nobody asks."""
    alive = [c for c in psutil.Process().children(True) if c.status() != psutil.STATUS_ZOMBIE]
    (service,) = [child for child in alive if "wandb-core" in child.name()]
    return service


def test_a_server_that_breaks_in_the_middle_is_no_trouble_once_it_is_back(tmp_path, server):
    run = RunDir(tmp_path)
    tracker = start(run)
    log(tracker, 10)
    until(lambda: run.wandb_id() in server.runs and server.runs[run.wandb_id()].lines, "a row")
    server.broken = 500
    log(tracker, 20, 30)
    before = server.requests
    until(lambda: server.requests > before, "a request")
    server.broken = None
    log(tracker, 40)
    finish(tracker, run)
    assert_equal(server, run)


def test_a_service_that_is_killed_in_the_middle_is_started_again(tmp_path, server, monkeypatch):
    monkeypatch.setattr(sink, "RETRY_S", 0.2)
    run = RunDir(tmp_path)
    tracker = start(run)
    log(tracker, 10)
    until(lambda: run.wandb_id() in server.runs and server.runs[run.wandb_id()].lines, "a row")
    service = service_process()
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
    worker.start()  # as a data loader's: it must not keep the lock
    try:
        service.kill()
        log(tracker, 20)
        until(lambda: len(server.runs[run.wandb_id()].lines) >= 3, "the rows")
        log(tracker, 30, 40)
        finish(tracker, run)
    finally:
        worker.kill()
        worker.join()
    assert_equal(server, run)


def test_a_service_that_does_not_hear_its_end_is_killed(tmp_path, server):
    run = RunDir(tmp_path)
    tracker = start(run)
    log(tracker, 10)
    finish(tracker, run)
    service = service_process()
    service.suspend()
    begin = time.monotonic()
    end_service(0.5)
    assert time.monotonic() - begin < HANG_S / 2 and not service.is_running()


def test_rows_that_wandb_gives_up_on_are_sent_again(tmp_path, server, monkeypatch):
    """Its client stops for good, and without a word, after an answer such as 404."""
    monkeypatch.setattr(sink, "RETRY_S", 0.2)
    monkeypatch.setattr(sink, "CHECK_S", 0.1)
    run = RunDir(tmp_path)
    tracker = start(run)
    log(tracker, 10)
    until(lambda: run.wandb_id() in server.runs, "the run")
    before = server.requests
    server.broken = 404
    log(tracker, 20)
    until(lambda: server.requests > before + 2, "some requests")
    server.broken = None
    for step in (30, 40):
        log(tracker, step)
        time.sleep(0.5)
    finish(tracker, run)
    assert_equal(server, run)


def test_rows_that_are_lost_at_the_end_are_said(tmp_path, server, capsys):
    run = RunDir(tmp_path)
    tracker = start(run)
    log(tracker, 10)
    until(lambda: run.wandb_id() in server.runs, "the run")
    server.broken = 404
    log(tracker, 20)
    finish(tracker, run)
    assert f"send them with: rwp-dist sync {run.path}" in capsys.readouterr().out
    server.broken = None
    assert not sync(run).missing
    assert_equal(server, run)


def test_rows_that_the_server_shows_late_are_not_sent_twice(tmp_path, server):
    run = RunDir(tmp_path)
    tracker = start(run)
    log(tracker, 10, 20)
    tracker.close("failed")
    server.lag_s = time.monotonic() - min(server.runs[run.wandb_id()].came.values()) + 2.0
    tracker = start(run, 20)
    log(tracker, 30)
    finish(tracker, run)
    assert_equal(server, run)


def test_sync_says_how_many_records_wandb_has_with_other_numbers(tmp_path, server):
    run = RunDir(tmp_path)
    tracker = start(run)
    log(tracker, 10, 30)
    tracker.close("failed")
    tracker = start(run, 10)
    tracker.log("train", {"step": 30, "loss": 9.0})  # as with another learning rate
    finish(tracker, run)
    synced = sync(run)
    assert (synced.differing, synced.missing) == (1, 0)
    assert "keeps other numbers of 1, from before a resume" in str(synced)


def test_sync_leaves_out_of_a_folder_what_nobody_wants_sent(tmp_path, server):
    empty, off, other = (RunDir(tmp_path / name) for name in ("empty", "off", "other"))
    start(empty, 0, "tracking.wandb=offline").close("finished")
    for run, mode in ((off, "off"), (other, "offline")):
        with start(run, 0, f"tracking.wandb={mode}") as tracker:
            log(tracker, 10)
    lines: list[str] = []
    sync_all([tmp_path, other.path], lines.append)
    assert lines[:2] == [
        f"{empty.path}: left out, because it has no record yet",
        f"{off.path}: left out, because tracking.wandb is off; name it itself to send it",
    ]
    assert len(lines) == 3 and list(server.runs) == [other.wandb_id()]
    sync_all([off.path], lines.append)
    assert off.wandb_id() in server.runs


def test_variables_of_another_shell_do_not_move_a_run_that_is_sent_later(tmp_path, server):
    run = RunDir(tmp_path)
    with start(run, 0, "tracking.wandb=offline") as tracker:
        log(tracker, 10)
    others = dict.fromkeys(("WANDB_ENTITY", "WANDB_PROJECT", "WANDB_NOTES"), "competitor")
    command = [sys.executable, "-m", "rwp_dist", "sync", str(run.path)]
    subprocess.run(command, env=os.environ | others, cwd=ROOT, check=True, capture_output=True)
    (recorded,) = server.runs.values()
    assert "competitor" not in json.dumps([recorded.upserts, recorded.project])


def test_online_wins_over_the_mode_of_the_shell(tmp_path, server, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = RunDir(tmp_path)
    with start(run, 0, "tracking.wandb=online") as tracker:
        log(tracker, 10)
    assert_equal(server, run)


def test_offline_nothing_is_written_for_wandb_and_one_line_names_the_command(tmp_path, capsys):
    run = RunDir(tmp_path / "run")
    tracker = start(run)
    log(tracker, 10)
    tracker.close("finished")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == (
        f"W&B is offline (no login found); send this run later with: rwp-dist sync {run.path}"
    )
    assert not [line for line in lines[2:] if "W&B" in line]
    assert not (run.path / "wandb").exists()


def test_off_imports_nothing(tmp_path):
    code = (
        "import sys; from rwp_dist.tracking import open_tracker;"
        "from rwp_dist.record.directory import RunDir;"
        "from rwp_dist.config.load import load_settings;"
        "s = load_settings(None, ['tracking.wandb=\"off\"']);"
        "torch = 'torch' in sys.modules;"
        f"open_tracker(s, RunDir({str(tmp_path)!r}), total_steps=1, first_step=0);"
        "print('wandb' in sys.modules, torch)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False False"


def test_wandb_that_cannot_be_imported_is_left_out(tmp_path, monkeypatch, capsys):
    def broken() -> Any:
        raise RuntimeError("broken at http://me:secret@host/x\nand more")

    monkeypatch.setattr(sink, "quiet", broken)
    with open_tracker(settings(), RunDir(tmp_path), total_steps=20, first_step=0) as tracker:
        tracker.log("train", {"step": 10, "loss": 2.0})
    assert capsys.readouterr().out.splitlines()[1] == (
        "W&B is off (broken at http://host/x); metrics.jsonl has every number."
    )
    assert len(RunDir(tmp_path).read_metrics()) == 1


def test_an_alert_reaches_wandb(tmp_path, server):
    run = RunDir(tmp_path)
    tracker = start(run)
    log(tracker, 10)
    tracker.alert(Alert("diverged", "The run diverges", "The loss is 99.", "ERROR"))
    tracker.close("failed")
    (alert,) = server.runs[run.wandb_id()].alerts
    assert (alert["title"], alert["severity"]) == ("The run diverges", "ERROR")


def test_the_stop_button_is_seen_even_after_the_end(tmp_path, server):
    tracker = start(RunDir(tmp_path))
    (wandb,) = [sink for sink in tracker._opened if sink.name == "W&B"]
    assert not tracker.stop_requested
    wandb._sender.stop.set()
    tracker.close("interrupted")
    assert tracker.stop_requested  # status.json says why a run stopped, after the tracker is closed


@pytest.mark.parametrize(
    ("state", "exit_code", "preempting"),
    [("interrupted", 1, True), ("failed", 1, False), ("finished", 0, False)],
)
def test_wandb_says_how_the_run_ended(state, exit_code, preempting, tmp_path, server):
    run = RunDir(tmp_path)
    with start(run) as tracker:
        tracker.close(state)  # the end of the context does not overwrite it
    recorded = server.runs[run.wandb_id()]
    assert (recorded.exit_code, recorded.preempting) == (exit_code, preempting)


def test_a_login_in_netrc_is_found_without_asking(tmp_path, capsys):
    connection.quiet()
    assert not connection.has_login()
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1:9\n  login user\n  password {KEY}\n")
    netrc.chmod(0o600)
    assert connection.has_login()
    assert KEY not in "".join(capsys.readouterr())


def test_sync_sends_what_is_missing_and_nothing_twice(tmp_path, server, capsys):
    run = RunDir(tmp_path / "run")
    tracker = start(run, 0, "tracking.wandb=offline")
    log(tracker, 10, 20)
    told = capsys.readouterr().out.splitlines()[1].partition("with: ")[2].split()
    assert told[:2] == ["rwp-dist", "sync"]
    assert str(sync(RunDir(told[2]))).startswith("3 sent, 0 already there, 3 in total: ")  # living
    assert server.runs[run.wandb_id()].preempting
    log(tracker, 30)
    finish(tracker, run)
    assert str(sync(run)).startswith("1 sent, 3 already there, 4 in total: ")
    assert str(sync(run)).startswith("0 sent, 4 already there, 4 in total: ")
    assert_equal(server, run)
    assert server.runs[run.wandb_id()].exit_code == 0


def test_sync_goes_on_with_the_other_runs_and_fails_if_one_is_not_whole(tmp_path, server, capsys):
    runs = [RunDir(tmp_path / name) for name in "abc"]
    for run in runs:
        with start(run, 0, "tracking.wandb=offline") as tracker:
            log(tracker, 10)
    runs[1].config.write_text("method: {nme: 1}")
    lines: list[str] = []
    with pytest.raises(RwpError, match="W&B lacks something of 1 run of 3"):
        sync_all([tmp_path], lines.append)
    assert [
        line.startswith(f"{run.path}: 1 sent") for line, run in zip(lines, runs, strict=True)
    ] == [
        True,
        False,
        True,
    ]


def test_sync_without_a_login_or_a_run_says_what_to_do(tmp_path):
    with pytest.raises(RwpError, match="there is no run in it"):
        sync_all([tmp_path], print)
    start(RunDir(tmp_path), 0, "tracking.wandb=off").close("finished")
    with pytest.raises(RwpError, match="wandb login"):
        sync_all([tmp_path], print)


def test_two_processes_do_not_send_one_run(tmp_path, server):
    run = RunDir(tmp_path)
    tracker = start(run)
    log(tracker, 10)
    until(lambda: run.wandb_id() in server.runs, "the run")
    with pytest.raises(RwpError, match="is being sent to W&B already"):
        sync(run)
    tracker.close("finished")
    assert sync(run).sent == 0


def test_sync_ends_with_a_sentence_when_the_server_is_away(tmp_path, server, monkeypatch):
    monkeypatch.setattr(connection, "INIT_TIMEOUT_S", 1.0)
    run = RunDir(tmp_path)
    start(run, 0, "tracking.wandb=offline").close("finished")
    server.stop()
    lines: list[str] = []
    with pytest.raises(RwpError, match="start the same command again"):
        sync_all([tmp_path], lines.append)
    assert lines[0].startswith(f"{tmp_path}: W&B did not take all of it (")
    server.restart()


def last_step(run: RunDir) -> int:
    return max((record["step"] for record in run.read_metrics()), default=0)


@pytest.mark.parametrize("mode", ["online", "offline"])
@pytest.mark.parametrize("seconds", [(1,), (5, 1), (13,), (20,)])
def test_whatever_is_killed_wandb_has_each_record_once(mode, seconds, tmp_path, server):
    run = RunDir(tmp_path / "run")
    path = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    first = 0
    for limit in seconds:
        argv = [sys.executable, "-m", "support.tracked", str(run.path), str(first), mode]
        attempt = subprocess.Popen(argv, env=os.environ | path)
        until(lambda first=first: last_step(run) > first, "a record")
        time.sleep(limit)
        attempt.send_signal(signal.SIGKILL)
        attempt.wait()
        reached = last_step(run)
        first = reached - 10  # as if that were the last checkpoint
    tracker = start(run, first, f"tracking.wandb={mode}")
    log(tracker, *range(first + 1, reached + 3))
    finish(tracker, run)
    synced = sync(run)
    assert not synced.missing
    assert synced.sent == 0 or mode == "offline"
    records = [(record["kind"], record["step"]) for record in run.read_metrics()]
    assert sorted(server.runs[run.wandb_id()].seen()) == sorted(records)
    assert len(set(records)) == len(records) > reached
