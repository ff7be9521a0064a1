"""A run that goes on with other settings, because a person asks for it with ``--change``."""

from ast import literal_eval
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import pytest
from click.testing import CliRunner
from support.ranks import run_ranks
from support.small import same_bits

from launcher.cli import main as launch
from launcher.ranks import run_ranks as launched_ranks
from rwp_dist import train as train_module
from rwp_dist.base.errors import RwpError, SettingsError
from rwp_dist.config import load_settings, with_changes
from rwp_dist.record.directory import RunDir
from rwp_dist.run.check import RunCheck
from rwp_dist.run.checkpoint import list_checkpoints, read_checkpoint
from rwp_dist.shards.digits import write_digits
from rwp_dist.train import train, train_step

LONGER = ("schedule.steps=8",)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder)
    return folder


def overrides(digits, run_dir, *more):
    return [
        *(f"data.train={digits}/train", f"data.val={digits}/test", f"run.dir={run_dir}"),
        *("batch.global=64", "schedule.steps=4", "schedule.name=constant", "run.device=cpu"),
        *("data.workers=0", "tracking.wandb=off", "evaluation.every_epochs=0"),
        *("method.name=m-rwp", "checkpoint.every_epochs=0", *more),
    ]


def started(settings, change=(), crash_at=None):
    """The summary of a run and what it prints, or the message of its end."""

    def crashing(parts, step, *args):
        if step == crash_at:
            raise RuntimeError("a crash")
        return train_step(parts, step, *args)

    printed = StringIO()
    with patch.object(train_module, "train_step", crashing), redirect_stdout(printed):
        try:
            summary = train(load_settings(None, with_changes(settings, change)))
        except (RwpError, RuntimeError) as error:
            return str(error), printed.getvalue()
    return summary, printed.getvalue()


def start(*args):
    return run_ranks(started, 2, *args)[0]


def weights_of(run_dir):
    return read_checkpoint(list_checkpoints(RunDir(run_dir).checkpoints)[-1])["weights"]


def files_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_finished_run_goes_on_for_longer_as_if_it_had_always_been_longer(digits, tmp_path):
    settings = overrides(digits, tmp_path / "run")
    assert start(settings)[0]["steps"] == 4
    before = files_of(tmp_path / "run")
    refused, _ = start([*settings, *LONGER])
    assert "schedule.steps: 4 there, 8 here" in refused and "--change schedule.steps=8`" in refused
    assert files_of(tmp_path / "run") == before

    change = "schedule.steps: 4 before, 8 now"
    summary, printed = start(settings, LONGER)
    assert summary["steps"] == 8 and summary["changes"] == [f"{change} (after step 4)"]
    assert f"The run goes on with {change}." in printed
    straight = overrides(digits, tmp_path / "straight", *LONGER)
    start(straight)
    assert same_bits(weights_of(tmp_path / "run"), weights_of(tmp_path / "straight"))

    run_dir = RunDir(tmp_path / "run")
    first, second = run_dir.read_attempts()
    assert (first["last_step"], first["changed"]) == ("4", "-")
    assert (second["first_step"], second["last_step"], second["changed"]) == ("4", "8", change)
    kept = load_settings(run_dir.config)
    assert kept.schedule.steps == 8 and kept.run.change == ()
    _, printed = start(settings, LONGER)
    assert "finished already" in printed and "differs" not in printed


def test_after_a_crash_the_same_command_goes_on(digits, tmp_path):
    settings = overrides(digits, tmp_path / "run")
    start(settings)
    message, _ = start(settings, LONGER, 6)
    assert message == "a crash" and not RunDir(tmp_path / "run").summary.exists()
    assert RunDir(tmp_path / "run").read_status()["state"] == "failed"
    summary, _ = start(settings, LONGER)
    assert summary["changes"] == ["schedule.steps: 4 before, 8 now (after step 4)"]


def test_a_learning_rate_and_a_sigma_change_on_the_way(digits, tmp_path):
    settings = overrides(digits, tmp_path / "run", "checkpoint.every_epochs=0.05")
    start(settings, (), 2)
    summary, _ = start(settings, ("optimizer.lr=0.01", "method.sigma=0.1"))
    assert summary["changes"] == [
        "method.sigma: 0.4 before, 0.1 now (after step 2)",
        "optimizer.lr: 0.1 before, 0.01 now (after step 2)",
    ]
    [record] = RunDir(tmp_path / "run").read_metrics("train")
    assert (record["lr"], record["sigma"]) == (0.01, 0.1)


def groups_at_a_step(settings, change, names):
    """Of each group of parameters, these values, when a run that goes on takes its next step."""

    def stopping(parts, *args):
        groups = parts.engine.optimizer.param_groups
        raise RuntimeError(repr([tuple(group[name] for name in names) for group in groups]))

    with patch.object(train_module, "train_step", stopping):
        try:
            train(load_settings(None, with_changes(settings, change)))
        except RuntimeError as error:
            return literal_eval(str(error))


@pytest.mark.parametrize(
    ("name", "change", "values"),
    [
        ("sgd", {"momentum": "0.5", "nesterov": "true"}, (0.5, True)),
        ("adamw", {"betas": "[0.8,0.9]", "eps": "1e-4"}, ((0.8, 0.9), 1e-4)),
    ],
)
def test_a_setting_of_the_optimizer_that_changes_is_in_force(
    digits, tmp_path, name, change, values
):
    more = (f"optimizer.name={name}", "checkpoint.every_epochs=0.05")
    settings = overrides(digits, tmp_path / "run", *more)
    assert run_ranks(started, 1, settings, (), 2)[0][0] == "a crash"
    changed = [f"optimizer.{key}={value}" for key, value in change.items()]
    assert run_ranks(groups_at_a_step, 1, settings, changed, [*change]) == [[values]]


@pytest.mark.parametrize(("before", "now"), [(0.1, 0.0), (0.0, 0.1)])
def test_decay_begins_and_ends_on_the_way(digits, tmp_path, before, now):
    more = (f"optimizer.weight_decay={before}", "optimizer.no_decay=['ndim<2']")
    settings = overrides(digits, tmp_path / "run", "checkpoint.every_epochs=0.05", *more)
    assert run_ranks(started, 1, settings, (), 2)[0][0] == "a crash"
    changed = [f"optimizer.weight_decay={now}"]
    found = run_ranks(groups_at_a_step, 1, settings, changed, ["weight_decay"])
    assert found == [[(now,), (0.0,)]]


@pytest.mark.parametrize(
    ("change", "steps"),
    [(("schedule.steps=3",), 3), (("optimizer.lr=0.5",), 4)],
)
def test_a_change_after_which_no_step_is_left_is_refused(digits, tmp_path, change, steps):
    settings = overrides(digits, tmp_path / "run")
    start(settings)
    before = files_of(tmp_path / "run")
    message, _ = start(settings, change)
    assert f"4 steps of the run are done, and it would have {steps}" in message
    assert "--change schedule.steps=N" in message
    assert files_of(tmp_path / "run") == before


def test_what_makes_another_run_of_it_cannot_be_changed():
    for change in ("run.seed=1", "model.name=resnet18", "batch.global=32", "method.name=sgd"):
        key = change.partition("=")[0]
        with pytest.raises(SettingsError, match=rf"a run cannot go on with another {key}"):
            load_settings(None, with_changes((), [change]))
    assert with_changes(["a=1"], []) == ("a=1",)
    with pytest.raises(SettingsError) as unknown:
        load_settings(None, with_changes((), ["model.nmae=resnet18"]))
    assert [problem.key for problem in unknown.value.problems] == ["model.nmae"]


def test_the_data_of_a_finished_run_that_goes_on_are_looked_at(digits, tmp_path):
    settings = overrides(digits, tmp_path / "run")
    start(settings)
    gone = [*settings, f"data.train={tmp_path}/gone"]
    assert RunCheck(2).read(None, gone)[1] == []
    [error] = RunCheck(2).read(None, with_changes(gone, LONGER))[1]
    assert "gone" in str(error)


def launched(command, *arguments):
    config = str(Path(__file__).parents[1] / "configs" / "digits.yaml")
    return CliRunner().invoke(launch, [command, config, "variant=sgd", *arguments])


def test_the_launcher_passes_it_on(digits, tmp_path):
    run_dir = RunDir(tmp_path / "run")
    places = [f"data.train={digits}/train", f"data.val={digits}/test", f"run.dir={run_dir.path}"]
    run_dir.create()
    settings = load_settings(None, [*places])  # any run that is finished
    run_dir.write_summary({"steps": 1})
    assert settings.run.change == ()
    change = "--change=schedule.steps=9000"

    dry = launched("submit", *places, "--dry-run", "--gpus=0")
    assert "is finished" in dry.stderr and dry.exit_code == 2
    with patch("launcher.submit.goes_on_changed", lambda *args: True):
        dry = launched("submit", *places, change, "--dry-run", "--gpus=0")
    assert "is finished" not in dry.stderr

    with patch("launcher.ranks.run_ranks", autospec=launched_ranks) as ranks:
        ranks.return_value = 0
        launched("run", *places, change)
    (_, command, _), _ = ranks.call_args
    assert command[-2:] == ["schedule.steps=9000", "run.change=[schedule.steps]"]
