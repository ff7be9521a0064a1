"""W&B's variables are defaults of the settings: a file and a command line win over them."""

import os

import pytest

from rwp_dist.base.errors import ConfigError, SettingsError
from rwp_dist.config.grid import expand
from rwp_dist.config.load import load_settings
from rwp_dist.config.sources import VARIABLES
from rwp_dist.config.values import dump_settings, get_setting
from rwp_dist.tracking.wandb import variables_used

VALUES = {
    "tracking.project": "lab",
    "tracking.entity": "team",
    "tracking.name": "mine",
    "tracking.group": "all",
    "tracking.notes": "first try",
    "tracking.id": "abc",
}


@pytest.fixture(autouse=True)
def none_set(monkeypatch):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def variables(monkeypatch):
    for key, value in VALUES.items():
        monkeypatch.setenv(VARIABLES[key], value)
    monkeypatch.setenv("WANDB_TAGS", "night, big")


def test_a_variable_wins_over_a_default(variables):
    settings = load_settings(None)
    assert {key: get_setting(settings, key) for key in VALUES} == VALUES
    assert settings.tracking.tags == ("night", "big")


def test_a_setting_wins_over_a_variable_and_that_is_said(variables, tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("tracking: {project: mine, tags: []}")
    settings = load_settings(file, ["tracking.group=other"])
    tracking = settings.tracking
    assert (tracking.project, tracking.group, tracking.tags) == ("mine", "other", ())
    said = variables_used(settings)
    assert "WANDB_PROJECT is not used, because tracking.project is set" in said
    assert "tracking.entity=team from WANDB_ENTITY" in said


def test_an_empty_variable_says_nothing(monkeypatch):
    for name in VARIABLES.values():
        monkeypatch.setenv(name, "")
    settings = load_settings(None)
    assert (settings.tracking.project, settings.tracking.tags) == ("rwp-dist", ())
    assert variables_used(settings) == ""


def test_what_a_run_was_started_with_stays(variables, tmp_path, monkeypatch):
    file = tmp_path / "config.yaml"
    file.write_text(dump_settings(load_settings(None)))
    for name in VARIABLES.values():
        monkeypatch.setenv(name, "other")
    assert load_settings(file).tracking.project == "lab"


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("tracking.project=team/vision", "1 to 128 characters, none of /"),
        ("tracking.project=", "should"),
        (f"tracking.tags=[{'x' * 65}]", "1 to 64 characters"),
        ("tracking.tags=['']", "1 to 64 characters"),
        (f"tracking.name={'x' * 129}", "1 to 128 characters"),
        (f"tracking.group={'x' * 129}", "1 to 128 characters"),
        ("tracking.id=a/b", "none of /"),
    ],
)
def test_what_wandb_would_refuse_is_a_wrong_setting(override, sentence):
    with pytest.raises(SettingsError, match=sentence) as error:
        load_settings(None, [override])
    assert error.value.exit_code == 2


def test_what_is_wrong_with_a_variable_names_it(monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "team/vision")
    with pytest.raises(SettingsError, match="the value is from WANDB_PROJECT"):
        load_settings(None)
    assert load_settings(None, ["tracking.project=vision"]).tracking.project == "vision"


def sweep(tmp_path, *overrides):
    file = tmp_path / "settings.yaml"
    file.write_text("method: {name: m-rwp}")
    grid = ["method.sigma=0.1,0.2"]
    return expand(file, overrides, variants=None, grid=grid, seeds=2, folder=tmp_path)


def test_the_group_of_a_sweep_tells_points_apart_and_not_seeds(tmp_path):
    groups = [run.tracking.group for run in sweep(tmp_path)]
    assert groups == ["m-rwp-sigma=0.1", "m-rwp-sigma=0.2"] * 2
    assert {run.tracking.group for run in sweep(tmp_path, "tracking.group=mine")} == {"mine"}


@pytest.mark.parametrize("key", ["id", "name"])
def test_a_sweep_refuses_what_names_one_run(key, tmp_path):
    with pytest.raises(ConfigError, match="is one run in W&B, and this is a sweep"):
        sweep(tmp_path, f"tracking.{key}=abc")


def test_runs_of_an_agent_have_folders_of_their_own_and_share_the_group_of_their_seeds(monkeypatch):
    def of_agent(identity, *overrides):
        monkeypatch.setenv("WANDB_RUN_ID", identity)
        return load_settings(None, overrides)

    first = of_agent("a1", "optimizer.lr=0.1")
    seed = of_agent("b2", "optimizer.lr=0.1", "run.seed=1")
    other = of_agent("c3", "optimizer.lr=0.2")
    assert [run.run.dir for run in (first, seed, other)] == [
        "runs/m-rwp-s0-a1",
        "runs/m-rwp-s1-b2",
        "runs/m-rwp-s0-c3",
    ]
    assert first.tracking.group == seed.tracking.group != other.tracking.group


def test_a_long_label_makes_a_group_that_wandb_takes(tmp_path):
    settings = load_settings(None, [f"run.label={'x' * 200}"])
    assert len(settings.tracking.group) == 128
    file = tmp_path / "config.yaml"
    file.write_text(dump_settings(settings))
    assert load_settings(file) == settings
