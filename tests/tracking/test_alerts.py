"""Alerts of real runs through a webhook: each kind once, and nobody waits or learns its address."""

import math
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch.distributed as dist
from support.ranks import run_ranks
from support.receiver import TOKEN, Receiver
from support.stream_sets import flip_bit
from support.until import HANG_S, until

from rwp_dist import train as train_module
from rwp_dist.base.errors import CheckpointWriteError, ConfigError
from rwp_dist.config import load_settings
from rwp_dist.data.dataset import load_dataset, load_manifest
from rwp_dist.process import webhook
from rwp_dist.process.webhook import VARIABLE, Alert
from rwp_dist.record.directory import RunDir
from rwp_dist.shards.digits import write_digits
from rwp_dist.tracking import Sink, Tracker, alerts, open_tracker
from rwp_dist.train import Training, train, train_step

ROOT = Path(__file__).parents[2]
ALL = "tracking.alerts=[diverged,gave_up,missed_checkpoint,silent_rank,bad_samples,finished]"
STEPS = 6


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder)
    return folder


@pytest.fixture(scope="module")
def damaged(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight of the training samples of this copy cannot be read."""
    copy = Path(shutil.copytree(digits, tmp_path_factory.mktemp("damaged") / "digits"))
    dataset = load_dataset([load_manifest(f"{copy}/train")], 10, None)
    for sample in range(0, 800, 100):
        (shard,), (row,) = dataset.locate(np.array([sample]))
        flip_bit(copy / "train", int(shard), int(row), dataset.index)
    return copy


@pytest.fixture
def site() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def overrides(digits: Path, run_dir: Path, *more: str) -> list[str]:
    return [
        f"data.train={digits}/train",
        f"data.val={digits}/test",
        "batch.global=256",
        "batch.per_rank=256",
        f"schedule.steps={STEPS}",
        "method.name=sgd",
        "run.device=cpu",
        "data.lanes=1",
        "data.pad_last=true",
        "data.workers=0",
        f"run.dir={run_dir}",
        "tracking.wandb=off",
        "tracking.log_every=1",
        *more,
    ]


def run(settings: list[str], url: str) -> str:
    """Train; how it ended."""
    os.environ[VARIABLE] = url
    try:
        return str(train(load_settings(None, settings))["state"])
    except CheckpointWriteError as error:
        return str(error)


@pytest.mark.parametrize(("lr", "kind", "code"), [("0.1", "finished", 0), ("1e30", "diverged", 65)])
def test_how_a_run_ends_is_told_once_and_the_address_is_nowhere(
    digits: Path, tmp_path: Path, site: Receiver, lr: str, kind: str, code: int
) -> None:
    settings = overrides(digits, tmp_path / "run", ALL, f"optimizer.lr={lr}", "run.name=mine")
    (tmp_path / "my.yaml").write_text("{}\n")
    done = subprocess.run(
        [sys.executable, "-m", "rwp_dist", "train", str(tmp_path / "my.yaml"), *settings],
        env=os.environ | {VARIABLE: site.url},
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert done.returncode == code, done.stderr
    assert site.kinds == [kind]
    (told,) = site.posted
    if kind == "diverged":
        assert told["text"].startswith("mine: The run diverges. The loss is ")
        assert told["level"] == "ERROR" and 0 < told["step"] <= STEPS
        assert done.stdout.count("The run diverges: ") == 1
    else:
        assert told["text"].startswith(f"mine: Finished. {STEPS} updates, top-1 ")
        assert (told["level"], told["step"]) == ("INFO", STEPS)
    assert TOKEN not in done.stdout + done.stderr
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) > 5
    assert [path for path in files if TOKEN.encode() in path.read_bytes()] == []


def test_many_bad_samples_are_told_once_before_they_end_the_run(
    damaged: Path, tmp_path: Path, site: Receiver
) -> None:
    # An epoch has four steps and eight bad samples, so the limit's 80 % are reached in the first.
    settings = overrides(damaged, tmp_path / "run", "data.max_bad_samples=20", "schedule.steps=12")
    with pytest.raises(Exception, match="samples could not be read, more than the limit of 20"):
        run_ranks(run, 1, settings, site.url)
    assert site.kinds == ["bad_samples"]
    assert "the run ends when they are more than 20" in site.posted[0]["text"]


def run_on_a_full_disk(settings: list[str], url: str) -> str:
    """The second checkpoint meets a full disk."""
    saved = []
    save = train_module.save_checkpoint

    def once(*args: Any, **more: Any) -> None:
        if saved:
            raise CheckpointWriteError("no room", cure="free space")
        saved.append(save(*args, **more))

    with patch.object(train_module, "save_checkpoint", once):
        return run(settings, url)


def test_a_checkpoint_that_could_not_be_written_is_told(
    digits: Path, tmp_path: Path, site: Receiver
) -> None:
    settings = overrides(digits, tmp_path / "run", ALL)  # one is due after step 4, one at the end
    assert run_ranks(run_on_a_full_disk, 1, settings, site.url) == ["no room; free space."]
    assert site.kinds == ["missed_checkpoint"]
    assert site.posted[0]["text"].endswith(
        "no room; free space. The run ends, and 2 updates since step 4 are lost."
    )


def told(url: str) -> bool:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return bool(answer.read() != b"0")


def run_with_a_slow_reader(settings: list[str], url: str) -> str:
    """Rank 1 does not come back from reading until the webhook was told."""
    fetch = Training._fetch

    def reading(self: Training, *args: Any) -> Any:
        if dist.get_rank() == 1 and self.done == 2:
            until(lambda: told(url), "the alert", every_s=0.1)
        return fetch(self, *args)

    with patch.object(Training, "_fetch", reading):
        return run(settings, url)


def test_a_rank_that_the_others_wait_for_is_named_while_the_run_stands_still(
    digits: Path, tmp_path: Path, site: Receiver
) -> None:
    settings = overrides(digits, tmp_path / "run", "batch.per_rank=128", "tracking.silent_s=2")
    ended = run_ranks(run_with_a_slow_reader, 2, settings, site.url)
    assert ended == ["finished", "finished"]
    assert site.kinds == ["silent_rank"]
    assert site.posted[0]["text"].endswith(
        "No rank has gone on for 2 s. Rank 1 reads the samples of the update after 3. "
        "The others wait."
    )
    assert not (tmp_path / "run" / "logs" / "silent").exists()


def run_with_a_stopped_rank(settings: list[str], url: str, pids: str) -> str:
    """Rank 0 stops in the second step; rank 1 lets it go on when the webhook was told."""

    def stepping(parts: Any, step: int, *args: Any) -> None:
        if step == 2:
            mine = Path(pids) / str(dist.get_rank())
            mine.write_text(str(os.getpid()))
            if dist.get_rank() == 0:
                os.kill(os.getpid(), signal.SIGSTOP)
            else:
                until(lambda: told(url), "the alert", every_s=0.1)
                os.kill(int((Path(pids) / "0").read_text()), signal.SIGCONT)
        train_step(parts, step, *args)

    with patch.object(train_module, "train_step", stepping):
        return run(settings, url)


def test_rank_1_tells_that_rank_0_is_stopped(digits: Path, tmp_path: Path, site: Receiver) -> None:
    settings = overrides(digits, tmp_path / "run", "batch.per_rank=128", "tracking.silent_s=2")
    (tmp_path / "pids").mkdir()
    ended = run_ranks(run_with_a_stopped_rank, 2, settings, site.url, str(tmp_path / "pids"))
    assert ended == ["finished", "finished"]
    assert site.posted[0]["kind"] == "silent_rank"
    assert "Rank 0 says nothing: it is stopped" in site.posted[0]["text"]


def run_with_an_alert_in_every_step(settings: list[str], url: str) -> tuple[str, float]:
    """How it ended, and the median time that an alert took, in seconds."""
    took = []

    def stepping(parts: Any, step: int, *args: Any) -> None:
        train_step(parts, step, *args)
        begin = time.perf_counter()
        sink.alert(Alert("diverged", "Another", "one."))
        took.append(time.perf_counter() - begin)

    made = Training.__init__

    def making(self: Training, *args: Any) -> None:
        nonlocal sink
        made(self, *args)
        sink = self.tracker._active[-1]

    sink: Sink = Sink()
    with (
        patch.object(train_module, "train_step", stepping),
        patch.object(Training, "__init__", making),
        patch.object(webhook, "CLOSE_S", 0.5),
    ):
        return run(settings, url), median(took)


@pytest.mark.parametrize("fault", ["500", "silent", "nobody"])
def test_a_server_that_is_dead_slow_or_fails_costs_no_step_and_stops_nothing(
    digits: Path, tmp_path: Path, site: Receiver, fault: str
) -> None:
    site.answers = [0 if fault == "silent" else 500]
    url = "http://127.0.0.1:9/" + TOKEN if fault == "nobody" else site.url
    begin = time.monotonic()
    settings = overrides(digits, tmp_path / "run")
    ((ended, took),) = run_ranks(run_with_an_alert_in_every_step, 1, settings, url)
    assert ended == "finished" and took < 0.05
    assert time.monotonic() - begin < STEPS * webhook.TIMEOUT_S
    records = RunDir(tmp_path / "run").read_metrics("train")
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    assert site.posted == []


# --- what is told, and when ---


class Kept(Sink):
    name = "kept"

    def __init__(self) -> None:
        self.alerts: list[Alert] = []

    def alert(self, alert: Alert) -> None:
        self.alerts.append(alert)


def test_each_kind_is_told_once_and_only_those_that_are_asked_for() -> None:
    kept = Kept()
    tracker = Tracker([kept], alerts=("diverged", "finished"))
    for _ in range(3):
        for kind in ("diverged", "bad_samples", "finished"):
            tracker.alert(Alert(kind, "a", "b"))
    assert [alert.kind for alert in kept.alerts] == ["diverged", "finished"]


def test_by_default_all_but_finished_are_told_and_any_can_be_turned_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = load_settings(None, []).tracking.alerts
    assert kinds == ("diverged", "gave_up", "missed_checkpoint", "silent_rank", "bad_samples")
    with pytest.raises(ConfigError, match=r"tracking\.alerts"):
        load_settings(None, ["tracking.alerts=[divergd]"])
    off = load_settings(None, ["tracking.wandb=off", "tracking.alerts=[]"])
    monkeypatch.setenv(VARIABLE, "no address")  # then nobody looks at it
    open_tracker(off, RunDir(tmp_path), total_steps=1, first_step=0).close("finished")
    on = load_settings(None, ["tracking.wandb=off"])
    with pytest.raises(ConfigError, match=VARIABLE):
        open_tracker(on, RunDir(tmp_path), total_steps=1, first_step=0)


def record(step: int, skipped: int = 0, loss: float = 2.0) -> dict[str, Any]:
    return {"step": step, "skipped_steps": skipped, "loss": loss}


@pytest.mark.parametrize("loss", [23.1, float("inf"), float("nan")])
def test_a_loss_far_above_guessing_diverges(loss: float) -> None:
    watch = alerts.Divergence(guess=math.log(10), method="sgd", step=0, skipped=0)
    assert watch.look(record(1, loss=23.0)) is None
    alert = watch.look(record(2, loss=loss))
    assert alert is not None and alert.kind == "diverged" and "at step 2," in alert.text


@pytest.mark.parametrize(
    ("method", "cure"),
    [
        ("sgd", "Lower optimizer.lr."),
        ("sam", "Lower method.rho or optimizer.lr."),
        ("m-rwp", "Lower method.sigma or optimizer.lr."),
    ],
)
def test_the_cure_names_what_the_method_has(method: str, cure: str) -> None:
    alert = alerts.Divergence(math.log(10), method, step=0, skipped=0).look(record(2, loss=99.0))
    assert alert is not None and alert.text.endswith(cure)


def test_many_skipped_updates_in_a_row_diverge_and_single_ones_do_not() -> None:
    watch = alerts.Divergence(guess=math.log(10), method="sgd", step=100, skipped=7)
    assert watch.look(record(110, 17)) is None  # all of them, but few
    assert watch.look(record(119, 26)) is None
    alert = watch.look(record(120, 27))
    assert alert is not None and "The last 20 updates up to step 120 were skipped" in alert.text
    watch = alerts.Divergence(guess=math.log(10), method="sgd", step=100, skipped=7)
    for step in range(110, 200, 10):
        assert watch.look(record(step, 7 + (step - 100) - (step - 100) // 10)) is None


@pytest.mark.parametrize(
    ("total", "limit", "told"), [(79, 100, False), (80, 100, True), (0, 0, False), (1, 1, True)]
)
def test_bad_samples_are_told_from_80_percent_of_the_limit_on(
    total: int, limit: int, told: bool
) -> None:
    assert (alerts.bad_samples(total, limit) is not None) == told


def test_huge_losses_and_skipped_updates_last_and_one_accident_does_not() -> None:
    for records, lasting in (
        ([record(150)], False),
        ([record(150, 1, float("nan"))], False),
        ([record(150, loss=24.0)], True),
        ([record(150, loss=24.0), record(200)], False),
        ([record(150, 50, float("nan"))], True),
    ):
        watch = alerts.Divergence(guess=math.log(10), method="sgd", step=100, skipped=0)
        for one in records:
            watch.look(one)
        assert watch.is_lasting == lasting
    young = alerts.Divergence(guess=math.log(10), method="sgd", step=0, skipped=0)
    young.look(record(6, 5, float("nan")))
    assert not young.is_lasting
    young.look(record(12, 11, float("nan")))
    assert young.is_lasting
