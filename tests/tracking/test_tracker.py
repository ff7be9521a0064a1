import json
import time
from pathlib import Path
from typing import Any

import pytest

from rwp_dist.base import clock
from rwp_dist.base.errors import Interrupted
from rwp_dist.config.load import load_settings
from rwp_dist.record.directory import RunDir
from rwp_dist.tracking import Tracker, open_tracker

SETTINGS = load_settings(None, ["tracking.wandb='off'", "run.name=m-rwp-3", "run.seed=3"])


def record(step: int, **more: Any) -> dict[str, Any]:
    return {"step": step, "total_steps": 100, "epoch": step / 10, "loss": 1.0, "top1": 50.0} | more


def start(path: Path, first_step: int = 0) -> Tracker:
    return open_tracker(SETTINGS, RunDir(path), total_steps=100, first_step=first_step)


def test_every_record_is_on_disk_when_the_call_returns(tmp_path: Path) -> None:
    run = start(tmp_path)
    run.log("train", record(10, loss=float("inf")))
    text = RunDir(tmp_path).metrics.read_text()
    assert text.endswith("}\n")
    [found] = map(json.loads, text.splitlines())
    assert abs(clock.seconds(found.pop("time")) - time.time()) < 60
    assert found == {"kind": "train", **record(10), "loss": None}
    run.log(
        "eval", {"step": 10, "epoch": 1.0, "loss": 0.5, "top1": 1.0, "top5": 2.0, "num_samples": 7}
    )
    assert [r["kind"] for r in RunDir(tmp_path).read_metrics()] == ["train", "eval"]
    run.close("finished")
    run.close("finished")


def test_a_resumed_run_has_each_step_once(tmp_path: Path) -> None:
    run = start(tmp_path)
    for step in (10, 20, 30, 40):
        run.log("train", record(step))
    run.close("failed")
    with RunDir(tmp_path).metrics.open("a") as file:
        file.write('{"kind": "train", "st')  # killed while writing
    run = start(tmp_path, first_step=20)
    for step in (30, 40, 50):
        run.log("train", record(step, loss=2.0))
    run.close("finished")
    found = [(r["step"], r["loss"]) for r in RunDir(tmp_path).read_metrics()]
    assert found == [(10, 1.0), (20, 1.0), (30, 2.0), (40, 2.0), (50, 2.0)]
    assert all(map(json.loads, RunDir(tmp_path).metrics.read_text().splitlines()))


def test_other_ranks_do_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with start(tmp_path / "run") as run:
        run.log("train", record(1))
        run.log("eval", record(1))
        run.advance(1)
        run.say("nothing")
        run.summarize({"top1": 1.0})
        assert not run.stop_requested
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "state"),
    [(None, "finished"), (Interrupted("x"), "interrupted"), (KeyboardInterrupt(), "interrupted"),
     (ValueError("x"), "failed")],
)  # fmt: skip
def test_state_at_the_end_of_the_context(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException | None, state: str
) -> None:
    states: list[str] = []
    monkeypatch.setattr(Tracker, "close", lambda self, how: states.append(how))

    def body() -> None:
        with start(tmp_path):
            if error:
                raise error

    if error:
        with pytest.raises(type(error)):
            body()
    else:
        body()
    assert states == [state]


@pytest.mark.parametrize(
    ("more", "line"),
    [({}, "m-rwp, seed 3"), ({"position": (5, 18)}, "[5/18] m-rwp, seed 3")],
)
def test_a_run_begins_with_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: dict[str, Any], line: str
) -> None:
    asked: dict[str, Any] = {"total_steps": 100, "first_step": 0} | more
    open_tracker(SETTINGS, RunDir(tmp_path), **asked).close("finished")
    assert capsys.readouterr().out.strip() == line


def test_closing_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with start(tmp_path) as run:
        capsys.readouterr()
        run.summarize({"label": "m-rwp", "top1": 93.94, "steps": 1260, "train_s": 45.4})
    assert capsys.readouterr().out == (
        "finished m-rwp, top-1 93.94 %, 1,260 updates, 45 s of training; "
        f"all of it is in {tmp_path}\n"
    )
