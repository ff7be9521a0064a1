"""The command line of ``rwp-dist``: what it says when something ends, and with which code."""

import json
import os
import pickle
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from unittest.mock import patch

import pytest
from click.testing import CliRunner, Result
from support.gate import Gate
from support.ranks import run_ranks
from support.until import HANG_S

from rwp_dist import sweep
from rwp_dist import train as train_module
from rwp_dist.base.errors import CheckpointWriteError, DataError, Interrupted, RwpError
from rwp_dist.cli import main
from rwp_dist.config import known_keys, load_settings
from rwp_dist.process import signals
from rwp_dist.process.group import same_on_all_ranks
from rwp_dist.record.directory import RunDir
from rwp_dist.shards.digits import write_digits

SLOW_START = "loading torch ...\n"
"""Printed before torch is imported."""
ROOT = Path(__file__).parents[1]
CONFIG = str(ROOT / "configs" / "digits.yaml")
COMMAND = [sys.executable, "-m", "rwp_dist"]


def start(
    *arguments: str,
    rank: int | None = None,
    world_size: int = 2,
    env: Mapping[str, str] = os.environ,
) -> subprocess.Popen:
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size} if rank is not None else {}
    return subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=ROOT,
        env={**env} | {key: str(value) for key, value in told.items()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


# --- errors of ranks ---


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_before_there_is_a_group_is_said_by_its_rank(rank: int, tmp_path: Path) -> None:
    process = start(
        "train", CONFIG, "batch.global=64", "run.device=cuda", f"run.dir={tmp_path}", rank=rank
    )
    _, errors = process.communicate(timeout=HANG_S)
    if "cuda" not in errors and process.returncode == 0:
        pytest.skip("this machine has a GPU for each rank")
    assert process.returncode == 2
    assert errors.startswith(f"rank {rank}: run.device: ")


def end_together() -> tuple[bool, bool]:
    import torch.distributed as dist

    try:
        with same_on_all_ranks(), same_on_all_ranks():
            if dist.get_rank() == 1:
                raise DataError("a shard is gone")
    except DataError as error:
        return error.shared, pickle.loads(pickle.dumps(error)).shared
    return False, False


def test_an_error_that_ranks_agreed_upon_says_so_even_after_pickling() -> None:
    assert not DataError("alone").shared
    assert run_ranks(end_together, 2) == [(True, True), (True, True)]


def invoke(error: Exception, rank: int, *, shared: bool, tmp_path: Path) -> tuple[str, dict]:
    """What rank ``rank`` of 2 prints and tells its agent when training ends so."""
    if isinstance(error, RwpError):
        error.shared = shared
    # As deep as an agent has it: ranks look at what the others have left beside it.
    word = tmp_path / "agents" / str(rank) / "error.json"
    word.parent.mkdir(parents=True, exist_ok=True)
    told = {"RANK": str(rank), "WORLD_SIZE": "2", "TORCHELASTIC_ERROR_FILE": str(word)}
    with (
        patch.dict(os.environ, told),
        patch.object(sweep, "run_all", side_effect=error),
    ):
        result = CliRunner().invoke(main, ["train", CONFIG, "batch.global=64"])
    assert result.exit_code == getattr(error, "exit_code", 1)
    return result.stderr, json.loads(word.read_text())


def test_a_shared_error_is_said_once_and_any_other_with_its_rank(tmp_path: Path) -> None:
    said, word = invoke(DataError("Gone."), 0, shared=True, tmp_path=tmp_path)
    assert said == "Gone.\n" and word["said"]
    said, word = invoke(DataError("Gone."), 1, shared=True, tmp_path=tmp_path)
    assert said == "" and not word["said"] and word["message"] == "Gone."
    for rank in (0, 1):
        said, word = invoke(DataError("Gone."), rank, shared=False, tmp_path=tmp_path)
        assert said == f"rank {rank}: Gone.\n" and word["said"] == (rank == 0)


def test_a_traceback_begins_with_its_rank(tmp_path: Path) -> None:
    said, word = invoke(ZeroDivisionError("oh"), 1, shared=False, tmp_path=tmp_path)
    assert said.startswith("rank 1: Traceback") and said.endswith("ZeroDivisionError: oh\n")
    assert word["message"] == "ZeroDivisionError: oh" and not word["lost"]
    error = RuntimeError("[pair.cc:534] Connection closed by peer [127.0.0.1]:39172")
    _, word = invoke(error, 0, shared=False, tmp_path=tmp_path)
    assert word["lost"]


# --- Ctrl-C ---


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder)
    return [f"data.train={folder}/train", f"data.val={folder}/test"]


@pytest.mark.parametrize("place", ["click", "torch", "rwp_dist.train", "deepspeed"])
def test_ctrl_c_while_a_run_starts_is_one_line(
    place: str, digits: list[str], tmp_path: Path
) -> None:
    gate = Gate(tmp_path / "gate", place)
    told = [*digits, f"run.dir={tmp_path}/run", "deepspeed.zero_stage=1"]
    process = start("train", CONFIG, *told, env=gate.environment)
    gate.wait()
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=HANG_S)
    stages = re.compile(r"^[a-z ]+ \.\.\.\n", re.MULTILINE)  # those that take more than two seconds
    assert (process.returncode, stages.sub("", output)) == (130, "")
    assert errors == "Stopped before the first step; nothing was lost.\n"


def test_ctrl_c_while_something_is_evaluated_does_not_speak_of_steps(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.create()
    run.write_config("")
    (run.checkpoints / "step-00000001.pt").touch()
    code = (
        "import sys, time, types; from rwp_dist.__main__ import main\n"
        "def wait(*args, **more): print('now', flush=True); time.sleep(3600)\n"
        "sys.modules['rwp_dist.evaluation.command'] = types.SimpleNamespace(evaluate_runs=wait)\n"
        "main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "evaluate", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "now\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=HANG_S)
    assert process.returncode == 130
    text = "Stopped before the evaluation was done; what was measured before is kept.\n"
    assert errors == SLOW_START + text


def test_shards_clear_up_after_ctrl_c(tmp_path: Path) -> None:
    with patch("rwp_dist.shards.digits.write_digits", side_effect=KeyboardInterrupt):
        result = CliRunner().invoke(main, ["shards", "digits", "--out", str(tmp_path)])
    assert result.exit_code == 130
    assert result.stderr == "Stopped; finished shards are kept: start the same command again.\n"


def test_handlers_are_as_before_when_a_command_line_was_called_from_python() -> None:
    before = [signal.getsignal(number) for number in signals.SIGNALS]
    CliRunner().invoke(main, ["settings"])
    assert [signal.getsignal(number) for number in signals.SIGNALS] == before


# --- sweeps ---


def runs_of(folder: Path, count: int = 3) -> list:
    more = ["run.device=cpu", "tracking.wandb=off"]
    return [load_settings(None, [f"run.dir={folder}/run-{n}", *more]) for n in range(count)]


def test_a_sweep_stops_with_its_first_interrupted_run(tmp_path: Path) -> None:
    begun = []

    def train(settings, session, position):
        run = RunDir(settings.run.dir)
        begun.append(run.path.name)
        if len(begun) == 2:
            raise Interrupted("Stopped after step 3", cure="start the same command again")
        run.write_summary({"top1": 1.0})

    with patch.object(train_module, "train", train), pytest.raises(Interrupted) as stop:
        sweep.run_all(runs_of(tmp_path), session="x")
    assert begun == ["run-0", "run-1"] and stop.value.shared
    assert str(stop.value).splitlines() == [
        "Stopped after step 3.",
        "1 of 3 runs are finished; start the same command again to go on with the rest.",
    ]


def test_what_a_stopped_series_says_is_true(tmp_path: Path) -> None:
    series = sweep.Series(runs_of(tmp_path, 2), is_sweep=True)
    first, second = series.dirs
    assert series.ctrl_c_message().startswith("Stopped between steps. 0 of 2 runs are finished; ")
    first.write_status("finished", 5, 5)
    first.write_summary({})
    assert "1 of 2 runs are finished" in series.ctrl_c_message()
    series.current = 1
    second.write_status("running", 1, 5)
    assert "1 of 2 runs are finished" in series.ctrl_c_message()
    second.write_status("interrupted", 2, 5)
    assert series.ctrl_c_message() is None
    single = sweep.Series(runs_of(tmp_path, 2)[1:], is_sweep=False)
    assert single.ctrl_c_message() == signals.nothing_lost()  # the status is of an earlier attempt


def swept(folder: Path, *arguments: str) -> Result:
    grid = "--grid=method.sigma=0.1,0.2"
    command = ["sweep", CONFIG, "--variants=sgd,rwp", grid, f"--dir={folder}", *arguments]
    return CliRunner().invoke(main, command)


def test_a_dry_run_of_a_sweep_lists_its_runs_and_trains_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_digits(tmp_path / "data" / "digits")
    monkeypatch.chdir(tmp_path)
    done = swept(tmp_path / "s", "--dry-run", "run.seed=5", "--seeds=2")
    assert done.exit_code == 0 and not (tmp_path / "s").exists()
    names = [line.split()[0] for line in done.stdout.splitlines()[2:-2]]
    assert names[:3] == ["sgd-s5", "rwp-sigma=0.1-s5", "rwp-sigma=0.2-s5"] and len(names) == 6
    assert done.stdout.splitlines()[-2:] == [
        "6 runs",
        "method.sigma is left out of 2 of 6 runs, where it has no use: sgd-s5, sgd-s6",
    ]


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_a_sweep_over_runs_with_other_settings_is_refused_before_it_begins(
    tmp_path: Path, more: tuple[str, ...]
) -> None:
    run = RunDir(tmp_path / "rwp-sigma=0.2-s2")
    run.create()
    run.write_config(f"run: {{seed: 2, dir: '{run.path}'}}\nmethod: {{name: rwp}}")
    run.write_summary({})
    with patch.object(sweep, "run_all") as started:
        done = swept(tmp_path, *more)
    assert done.exit_code == 2 and not started.called and bool(done.stdout) == bool(more)
    assert "rwp-sigma=0.2-s2 holds another run (" in done.stderr


def test_a_setting_in_the_grid_and_beside_it_is_refused(tmp_path: Path) -> None:
    done = swept(tmp_path, "method.sigma=0.3")
    assert done.exit_code == 2 and "keep one of them" in done.stderr


# --- results ---


def test_evaluation_without_a_checkpoint_has_simply_failed(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.create()
    run.write_config("")
    result = CliRunner().invoke(main, ["evaluate", str(tmp_path)])
    assert result.exit_code == 1
    assert result.stderr.endswith("there is no checkpoint yet; let the run reach its first.\n")


def test_a_full_disk_is_not_for_good() -> None:
    assert CheckpointWriteError.exit_code == 1


@pytest.mark.parametrize("html", [False, True])
def test_compare_names_its_files_last(tmp_path: Path, html: bool) -> None:
    options = ["--columns", "ece, nll", "--x", "samples", *(["--html"] if html else [])]
    with patch("rwp_dist.cli.make_comparison", return_value="the table") as made:
        result = CliRunner().invoke(main, ["compare", "runs/a", "--out", str(tmp_path), *options])
    files = [f"{tmp_path}/compare.{end}" for end in ("md", "json", "csv", "tex", "png")]
    files += [f"{tmp_path}/compare.html"] if html else []
    assert result.stdout.splitlines() == ["the table", f"Written: {', '.join(files)}"]
    assert made.call_args.args == ((Path("runs/a"),), tmp_path, [], None, ["ece", "nll"])
    assert made.call_args.kwargs == {"flatness": False, "x": "samples", "html": html}


def test_make_clean_keeps_what_cannot_be_rebuilt() -> None:
    recipe = (ROOT / "Makefile").read_text().partition("\nclean:")[2]
    assert recipe.split()[:2] == ["rm", "-rf"]
    assert not {"runs", "data"} & set(recipe.split())


# --- settings of a run ---


def settings_of(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["settings", CONFIG, *arguments])
    return done.exit_code, done.output


def test_settings_prints_one_value_of_a_run() -> None:
    assert settings_of("variant=m-rwp", "--get", "run.dir") == (0, "runs/digits/m-rwp-s0\n")
    assert settings_of("run.dir=here", "--ranks", "2", "--get", "run.dir") == (0, "here\n")


def test_settings_that_are_wrong_or_do_not_suit_the_ranks_end_with_2() -> None:
    code, said = settings_of("variant=sgd", "--ranks", "3", "--get", "run.dir")
    assert code == 2 and "set batch.global to 63 or 66" in said
    code, said = settings_of("--get", "run.dirr")
    assert code == 2 and "did you mean run.dir?" in said


def test_a_section_is_no_setting_and_names_one_of_its_own() -> None:
    said = "data is a section of settings; name one of it, such as data.train.\n"
    assert settings_of("--get", "data") == (2, said)


def test_the_settings_of_a_run_take_no_others(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.write_config("run.seed: 3\n")
    done = CliRunner().invoke(main, ["settings", str(run.path), "run.seed=4"])
    assert done.exit_code == 2 and done.output.startswith(f"run.seed: {run.path} is a run, ")


def test_settings_of_a_run_are_those_of_its_directory(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.create()
    run.write_config("method: {sigma: 0.07}\nbatch: {global: 63}")  # of three ranks, perhaps
    done = CliRunner().invoke(main, ["settings", str(run.path), "--get", "method.sigma"])
    assert (done.exit_code, done.output) == (0, "0.07\n")
    done = CliRunner().invoke(main, ["settings", str(run.path)])
    assert done.exit_code == 0 and "\n  sigma: 0.07\n" in done.output
    done = CliRunner().invoke(main, ["settings", str(tmp_path)])
    assert done.exit_code == 2 and done.stderr.startswith(f"{tmp_path} holds no run; ")


def test_every_setting_is_listed_with_what_it_may_be_its_default_and_its_meaning() -> None:
    done = CliRunner().invoke(main, ["settings"])
    blocks = dict(text.split("\n", 1) for text in done.output.strip().split("\n\n"))
    assert blocks.keys() == known_keys().keys()
    for name, text in blocks.items():
        lines = text.splitlines()
        assert [line.split()[0] for line in lines if line[4] != " "][:3] == [
            "value",
            "default",
            "resumed",
        ], name
        assert max(map(len, lines)) <= 100
    assert "value    a number, from 0 to 1\n    default  0.5\n" in blocks["method.lambda"]
    assert "value    auto | cpu | cuda\n" in blocks["run.device"]
    assert "value    a whole number, from 0 to 1,024, or auto\n" in blocks["data.workers"]
    assert "default  null\n    resumed  stays" in blocks["optimizer.no_decay"]


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_a_wrong_path_ends_with_2_before_torch_is_loaded(command: str, tmp_path: Path) -> None:
    more = ["--dir", str(tmp_path / "runs")] if command == "sweep" else [f"run.dir={tmp_path}/run"]
    process = start(command, CONFIG, f"data.train={tmp_path}/gone", *more)
    output, errors = process.communicate(timeout=HANG_S)
    assert (process.returncode, output) == (2, "")
    assert f"data.train: {tmp_path}/gone: there are no shards here" in errors
    assert not list(tmp_path.iterdir())
