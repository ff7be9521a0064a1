"""Paths in settings: the home folder, and the same place from every working directory."""

from pathlib import Path

import pytest

from rwp_dist.base.errors import SettingsError
from rwp_dist.config import load_settings, with_absolute_paths
from rwp_dist.config.values import get_setting

KEYS = ("run.dir", "data.train", "data.val", "data.cache_dir", "model.init")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize("key", KEYS)
def test_the_home_folder_is_expanded_in_a_file_and_on_the_command_line(
    key: str, home: Path, tmp_path: Path
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"{key}: ~/a b")
    for settings in (load_settings(file), load_settings(None, [f"{key}=~/a b"])):
        assert get_setting(settings, key) == f"{home}/a b"
    assert get_setting(load_settings(None, [f"{key}=./~"]), key) == "./~"
    with pytest.raises(SettingsError, match=rf"{key}: .*~nobody-here has no home folder here"):
        load_settings(None, [f"{key}=~nobody-here/a"])


def test_the_home_folder_is_expanded_in_a_mixture_whose_keys_stay_apart(home: Path) -> None:
    assert load_settings(None, ["data.mix={~/a: 1, b: 2}"]).data.mix == {f"{home}/a": 1, "b": 2}
    with pytest.raises(SettingsError, match="two of its keys are one place"):
        load_settings(None, [f"data.mix={{~/a: 1, {home}/a: 2}}"])


def test_paths_become_absolute_and_addresses_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mix = "data.mix={a: 1, file:///b: 2, file:/c: 3}"
    given = [
        "data.train=../t",
        "data.val=s3://b/v?x=~",
        "data.cache_dir=c",
        mix,
        "method.sigma=0.2",
    ]
    settings = load_settings(None, given)
    absolute = with_absolute_paths(settings)
    assert absolute.data.train == f"{tmp_path}/../t" and absolute.data.val == "s3://b/v?x=~"
    assert absolute.data.cache_dir == f"{tmp_path}/c"
    assert absolute.data.mix == {f"{tmp_path}/a": 1, "file:///b": 2, "file:/c": 3}
    assert absolute.run.dir == f"{tmp_path}/runs/m-rwp-s0"
    assert with_absolute_paths(absolute) == absolute
    assert absolute.model_copy(update={"run": settings.run, "data": settings.data}) == settings


def test_a_default_is_a_place_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = with_absolute_paths(load_settings(None))
    assert settings.data.train == f"{tmp_path}/data/digits/train"
    assert "~" not in settings.data.cache_dir
