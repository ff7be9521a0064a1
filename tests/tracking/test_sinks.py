"""The same records through every sink: each shows all of them, and resumes as it promises."""

import contextlib
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.mounts import small_disk
from support.until import HANG_S
from support.wandb_server import wandb_server

from rwp_dist.base.errors import ConfigError
from rwp_dist.config.load import load_settings
from rwp_dist.record.directory import RunDir
from rwp_dist.tracking import Sink, Tracker, open_tracker
from rwp_dist.tracking.console import Console
from rwp_dist.tracking.jsonl import JsonLines
from rwp_dist.tracking.tensorboard import TensorBoard
from rwp_dist.tracking.tracker import SINKS
from rwp_dist.tracking.trackio import Trackio
from rwp_dist.tracking.wandb import Wandb
from rwp_dist.tracking.webhook import WebhookSink

ROOT = Path(__file__).parents[2]
HAS_TRACKIO = importlib.util.find_spec("trackio") is not None  # not in dev, see pyproject.toml

Shown = list[tuple[str, int, float]]
"""Kind, step and loss of every record, as a sink shows them."""

FIRST: Shown = [("train", 10, 2.5), ("eval", 10, 2.25), ("train", 20, 2.0), ("train", 30, 1.75)]
"""What the first attempt logs. Its checkpoint is of step 20."""

SECOND: Shown = [("train", 30, 1.5), ("eval", 30, 1.25)]


def start(run: Path, first_step: int, *overrides: str) -> Tracker:
    name = f"run.name={run.name}"
    settings = load_settings(None, ["tracking.wandb=offline", name, *overrides])
    return open_tracker(settings, RunDir(run), total_steps=30, first_step=first_step)


def log(tracker: Tracker, records: Shown) -> None:
    for kind, step, loss in records:
        tracker.log(kind, {"step": step, "total_steps": 30, "loss": loss, "top1": None})


def read_console(run: Path, out: str) -> Shown:
    found = re.findall(r"^(step|eval at step) +(\d+)[/:].*?loss +([\d.]+)", out, re.MULTILINE)
    return [("train" if head == "step" else "eval", int(n), float(x)) for head, n, x in found]


def read_jsonl(run: Path, out: str) -> Shown:
    return [(r["kind"], r["step"], r["loss"]) for r in RunDir(run).read_metrics()]


def read_wandb(run: Path, out: str) -> Shown:
    """From what the server got, which the fixture below has written down."""
    rows = json.loads((run / "wandb-rows.json").read_text())
    losses = [(k.partition("/")[0], v, row) for row in rows for k, v in row.items() if "/loss" in k]
    return [(kind, row["global_step"], loss) for kind, loss, row in losses]


def read_tensorboard(run: Path, out: str) -> Shown:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard")).Reload()
    assert events.Tags()["scalars"] == ["train/loss", "eval/loss"]
    return [(k, e.step, e.value) for k in ("train", "eval") for e in events.Scalars(f"{k}/loss")]


def read_trackio(run: Path, out: str) -> Shown:
    from trackio.sqlite_storage import SQLiteStorage

    (folder,) = re.findall(
        r"^trackio: TRACKIO_DIR=(\S+) trackio show --project rwp-dist$", out, re.M
    )
    assert Path(folder).resolve() == run.parent / "trackio"
    assert [record["name"] for record in SQLiteStorage.get_run_records("rwp-dist")] == [run.name]
    rows = SQLiteStorage.get_logs("rwp-dist", run.name)
    losses = [(key, row["step"], value) for row in rows for key, value in row.items()]
    return [(k.partition("/")[0], n, value) for k, n, value in losses if k.endswith("/loss")]


ONCE, TWICE = FIRST[:3] + SECOND, FIRST + SECOND
EXPECTED: dict[type[Sink], tuple[Callable[[Path, str], Shown], Shown]] = {
    Console: (read_console, TWICE),
    JsonLines: (read_jsonl, ONCE),
    Wandb: (read_wandb, [FIRST[3], *ONCE[:-2], SECOND[1]]),
    TensorBoard: (read_tensorboard, ONCE),
    Trackio: (read_trackio, ONCE),
}
"""How to read what a sink shows, and what that is after an attempt and a second one from step 20:
each step once, or those after the checkpoint twice. W&B keeps a step's first record."""


@pytest.fixture(scope="module")
def two_attempts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run directory after two attempts, and what the console showed."""
    run = tmp_path_factory.mktemp("runs") / "m-rwp-s0"
    out = io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        wandb_server() as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in server.environment().items():
            patch.setenv(name, value)
        for first_step, records in ((0, FIRST), (20, SECOND)):
            more = ("tracking.trackio=true",) if HAS_TRACKIO else ()
            both = ("tracking.wandb=online", "tracking.tensorboard=true")
            with start(run, first_step, *both, *more) as tracker:
                log(tracker, records)
                tracker.summarize({"top1": 71.0})
        (recorded,) = server.runs.values()
        (run / "wandb-rows.json").write_text(json.dumps(recorded.rows))
    return run, out.getvalue()


@pytest.mark.parametrize("kind", [kind for kind in SINKS if kind is not WebhookSink])  # no records
def test_every_record_is_shown(kind: type[Sink], two_attempts: tuple[Path, str]) -> None:
    if kind is Trackio and not HAS_TRACKIO:
        pytest.skip("trackio is not installed")
    read, expected = EXPECTED[kind]
    assert sorted(read(*two_attempts)) == sorted(expected)


def test_a_sink_that_is_off_leaves_no_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with start(tmp_path, 0, "tracking.wandb=off") as tracker:
        log(tracker, FIRST)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert "trackio" not in capsys.readouterr().out  # its files are elsewhere


DIES = """
import os, sys
from pathlib import Path
sys.path += ["tests"]
from tracking.test_sinks import FIRST, log, start
log(start(Path(sys.argv[1]), 0, "tracking.wandb=off", "tracking.tensorboard=true"), FIRST[:2])
os._exit(9)
"""


def test_records_are_on_disk_when_a_run_is_killed(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", DIES, str(tmp_path)], cwd=ROOT, check=False)
    assert done.returncode == 9
    assert read_jsonl(tmp_path, "") == read_tensorboard(tmp_path, "") == FIRST[:2]


def test_tensorboard_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match="TensorBoard is not installed") as error:
        start(tmp_path, 0, "tracking.wandb=off", "tracking.tensorboard=true")
    assert error.value.key == "tracking.tensorboard"
    assert "pip install 'rwp-dist[tensorboard]'" in str(error.value.cure)


def test_trackio_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(ConfigError, match="trackio is not installed") as error:
        start(tmp_path, 0, "tracking.wandb=off", "tracking.trackio=true")
    assert error.value.key == "tracking.trackio"
    assert "pip install 'rwp-dist[trackio]'" in str(error.value.cure)


NO_NETWORK = """
import os, socket, sys
from pathlib import Path
sys.path += ["tests"]
asked = []
def refuse(*address, **_):
    asked.append(address)
    raise OSError("there is no network")
socket.getaddrinfo = socket.socket.connect = socket.socket.bind = refuse
from rwp_dist.tracking.trackio import Trackio, show_command
from tracking.test_sinks import FIRST, log, start
for name in ("one", "two", "one"):
    more = ("tracking.wandb=off", "tracking.trackio=true", "tracking.group=night", "run.seed=3")
    with start(Path(sys.argv[1]) / name, 0, *more) as tracker:
        log(tracker, FIRST[:2])
import trackio
found = [(run.name, run.config) for run in trackio.Api().runs("rwp-dist")]
runs = [(name, config["_Group"], config["run"]["seed"]) for name, config in found]
assert sorted(runs) == [("one", "night", 3), ("two", "night", 3)], runs
assert not asked, asked
"""


@pytest.mark.skipif(not HAS_TRACKIO, reason="trackio is not installed")
def test_trackio_asks_nobody_and_keeps_the_runs_of_a_folder_together(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    more = {"HOME": str(home), "HF_TOKEN": "hf_" + 34 * "a", "TRACKIO_SPACE_ID": "me/space"}
    env = {key: value for key, value in os.environ.items() if key != "TRACKIO_DIR"} | more
    done = subprocess.run(
        [sys.executable, "-c", NO_NETWORK, str(tmp_path / "runs")],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trackio: TRACKIO_DIR=") == 1 and "*" not in done.stdout
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"one", "two", "trackio"}
    assert [path for path in home.rglob("*") if path.is_file()] == []


TRACKIO = ("trackio==0.43.0", "brotli==1.2.1", "gradio_client==2.7.2", "orjson==3.13.0")
SERVER = ("starlette==1.10.0", "uvicorn==0.54.0", "python-multipart==0.0.34")


@pytest.mark.skipif(HAS_TRACKIO, reason="trackio is installed, and tested above")
def test_the_real_trackio_in_a_folder_of_its_own(tmp_path: Path) -> None:
    """It wants an older Pillow, which it does not use here, so it cannot be among the others."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    installed = subprocess.run([*pip, tmp_path / "packages", *TRACKIO, *SERVER], check=False)
    if installed.returncode:
        pytest.skip("the packages of trackio cannot be downloaded")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "tests/tracking/test_sinks.py",
            "-k",
            "trackio or Trackio",
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}/packages:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "\n..." in f"\n{done.stdout}"  # shown once, without its package, asks nobody


def test_a_record_that_a_full_disk_does_not_take_names_its_file_and_closing_is_silent(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "disk", "size=8k") as disk:
        sink = JsonLines(RunDir(disk))
        with pytest.raises(OSError, match=r"No space left on device: .*metrics\.jsonl"):
            sink.log("train", {"step": 1, "text": "x" * 9000})
        sink.close("failed")


@pytest.mark.parametrize("call", ["log", "advance", "summarize", "close"])
@pytest.mark.parametrize("optional", [True, False])
def test_only_an_optional_sink_may_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], call: str, optional: bool
) -> None:
    class Failing(Sink):
        name = "X"
        calls = 0

    def fail(self: Failing, *_: object) -> None:
        Failing.calls += 1
        raise OSError("no room")

    setattr(Failing, call, fail)
    Failing.optional = optional
    tracker = Tracker([Console(total_steps=30), JsonLines(RunDir(tmp_path)), Failing()])

    def use() -> None:
        log(tracker, FIRST)
        for step in (1, 2):
            tracker.advance(step)
            tracker.summarize({"top1": 71.0})
        tracker.close("finished")

    if optional:
        use()
        assert Failing.calls == 1
        assert capsys.readouterr().out.count("X is off from here (no room); metrics.jsonl") == 1
        assert read_jsonl(tmp_path, "") == FIRST
    else:
        with pytest.raises(OSError, match="no room"):
            use()
