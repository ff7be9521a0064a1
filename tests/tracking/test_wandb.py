import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rwp_dist.config.load import load_settings
from rwp_dist.config.tree import Settings
from rwp_dist.record.directory import RunDir
from rwp_dist.tracking import Tracker, open_tracker
from rwp_dist.tracking import wandb as guest
from rwp_dist.tracking.console import Console

KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def no_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing of the account that runs the tests, and a server that refuses connections."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb-config"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    yield
    if "wandb" in sys.modules:
        import wandb

        wandb.teardown()


def settings(*overrides: str) -> Settings:
    return load_settings(None, ["run.name=m-rwp-seed3", "run.seed=3", *overrides])


def inspect(run: RunDir) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Summary and records of the run's newest offline file, read by W&B's own reader."""
    [file] = sorted(run.path.glob("wandb/offline-run-*/*.wandb"))[-1:]
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    both = [
        subprocess.run(c, capture_output=True, text=True, check=True).stdout
        for c in ([*command, "--summary"], command)
    ]
    return json.loads(both[0]), [json.loads(line) for line in both[1].splitlines()]


def history(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [r["history"]["item"] for r in records if r["type"] == "history"]


def test_without_a_login_auto_goes_offline_and_says_how_to_sync(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDir(tmp_path / "run")
    run.write_environment({"git": {"commit": "abc", "dirty": False}, "world_size": 2})
    tracker = open_tracker(settings("tracking.tags=[night]"), run, total_steps=20, first_step=0)
    tracker.log("train", {"step": 10, "total_steps": 20, "loss": 2.0, "top1": None, "lr": 0.1})
    tracker.log("eval", {"step": 10, "loss": 1.0, "top1": 71.0})
    tracker.summarize({"top1": 71.0, "label": "m-rwp"})
    tracker.close("finished")
    out, err = capsys.readouterr()
    head, first = out.splitlines()[:2]
    assert head == "m-rwp, seed 3"
    assert first.startswith("W&B is offline (no login found)")
    folder = Path(first.partition("wandb sync ")[2])
    assert folder.parent == run.path / "wandb"
    assert folder.is_dir()
    assert "wandb" not in err

    summary, records = inspect(run)
    [started] = [r["run"] for r in records if r["type"] == "run"]
    assert started["run_id"] == run.wandb_id()
    assert started["run_group"] == "m-rwp"
    assert started["display_name"] == "m-rwp-seed3"
    assert started["tags"] == ["m-rwp", "small_cnn", "night"]
    assert summary["config"]["batch"]["global"] == 64
    assert summary["config"]["git_commit"] == "abc"
    assert summary["summary"]["label"] == "m-rwp"
    assert summary["exit_code"] == 0
    train, evaluation = history(records)
    assert (train["train/loss"], train["global_step"]) == (2.0, 10)
    assert "train/top1" not in train
    assert (evaluation["eval/top1"], evaluation["global_step"]) == (71.0, 10)
    [metric] = [r["metric"] for r in records if r["type"] == "metric"]
    assert (metric["glob_name"], metric["step_metric"]) == ("*", "global_step")


def test_unreachable_server_falls_back_with_the_same_id_and_the_key_stays_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(guest, "INIT_TIMEOUT_S", 1.5)
    run = RunDir(tmp_path / "run")
    before = time.monotonic()
    tracker = open_tracker(settings(), run, total_steps=20, first_step=0)
    tracker.log("train", {"step": 10, "loss": 2.0})
    tracker.close("interrupted")
    assert time.monotonic() - before < 8
    out, err = capsys.readouterr()
    assert out.splitlines()[1].startswith("W&B is offline (Failed to get")
    assert KEY not in out + err
    summary, records = inspect(run)
    assert summary["run_id"] == run.wandb_id()
    assert summary["exit_code"] == 1
    assert any(r["type"] == "preempting" for r in records)
    assert len(history(records)) == 1
    for file in run.path.rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes(), file


def test_service_killed_in_the_middle_says_one_line_and_training_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDir(tmp_path)
    tracker = open_tracker(settings("tracking.wandb=offline"), run, total_steps=20, first_step=0)
    import wandb

    wandb.teardown()  # as a SIGTERM to the whole job does
    before = time.monotonic()
    for step in (10, 20):
        tracker.log("train", {"step": step, "loss": 2.0})
    tracker.summarize({"top1": 1.0})
    tracker.close("finished")
    assert time.monotonic() - before < 5
    out = capsys.readouterr().out
    assert out.count("W&B is off from here") == 1
    assert [r["step"] for r in run.read_metrics()] == [10, 20]


def test_wandb_that_cannot_start_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb

    def broken(**_: Any) -> None:
        raise RuntimeError("broken at http://me:secret@host/x\nand more")

    monkeypatch.setattr(wandb, "init", broken)
    asked = settings("tracking.wandb=online")
    with open_tracker(asked, RunDir(tmp_path), total_steps=20, first_step=0) as run:
        run.log("train", {"step": 10, "loss": 2.0})
    assert capsys.readouterr().out.splitlines()[1] == (
        "W&B is off (broken at http://host/x); metrics.jsonl has every number."
    )
    assert len(RunDir(tmp_path).read_metrics()) == 1


def test_off_imports_nothing(tmp_path: Path) -> None:
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


def test_stop_button_and_failing_calls(capsys: pytest.CaptureFixture[str]) -> None:
    class Run:
        dir = "/nowhere/run/files"

        def log(self, values: dict[str, Any]) -> None:
            raise ConnectionError("gone")

    stop = threading.Event()
    tracker = Tracker([Console(total_steps=1), guest.Wandb(Run(), stop)])
    assert not tracker.stop_requested
    stop.set()
    assert tracker.stop_requested
    tracker.log("eval", {"step": 1, "loss": 1.0})
    tracker.log("eval", {"step": 2, "loss": 1.0})
    tracker.close("finished")
    assert tracker.stop_requested  # status.json says why a run stopped, after the tracker is closed
    out = capsys.readouterr().out.splitlines()
    assert [line.startswith("eval at step") for line in out] == [True, False, True]
    assert out[1] == (
        "W&B is off from here (gone); metrics.jsonl goes on, and what W&B has so far can be sent "
        "with: wandb sync /nowhere/run"
    )


@pytest.mark.parametrize(
    ("state", "calls"),
    [("interrupted", ["preempting", "finish 1"]), ("failed", ["finish 1"]),
     ("finished", ["finish 0"])],
)  # fmt: skip
def test_the_end_of_the_context_does_not_overwrite_how_the_run_ended(
    state: str, calls: list[str]
) -> None:
    made: list[str] = []

    class Run:
        dir = "/nowhere/run/files"

        def mark_preempting(self) -> None:
            made.append("preempting")

        def finish(self, exit_code: int) -> None:
            made.append(f"finish {exit_code}")

    with Tracker([guest.Wandb(Run(), threading.Event())]) as tracker:
        tracker.close(state)
    assert made == calls


def test_a_login_in_netrc_is_found_without_asking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb

    monkeypatch.setattr(wandb, "run", None)  # another test's, whose service was killed
    wandb.setup(settings=wandb.Settings(silent=True))
    assert not guest.has_login()
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1:9\n  login user\n  password {KEY}\n")
    netrc.chmod(0o600)
    assert guest.has_login()
    assert KEY not in "".join(capsys.readouterr())
