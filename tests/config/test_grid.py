"""The runs of a sweep."""

from pathlib import Path

import pytest

from rwp_dist.base.errors import ConfigError
from rwp_dist.config import expand

CONFIG = Path(__file__).parents[2] / "configs" / "digits.yaml"


def names(**how) -> list[str]:
    known = {"variants": "sgd,rwp", "grid": (), "seeds": 1, "folder": Path("/runs")}
    config, overrides = how.pop("config", CONFIG), how.pop("overrides", ())
    runs = expand(config, overrides, **(known | how))
    assert all(settings.run.dir == f"/runs/{settings.run.name}" for settings in runs)
    return [str(settings.run.name) for settings in runs]


def test_seeds_are_outermost_and_every_combination_is_taken() -> None:
    assert names(seeds=2) == ["sgd-s0", "rwp-s0", "sgd-s1", "rwp-s1"]
    grid = ("optimizer.lr=0.1,0.2", "batch.global=32,64")
    assert names(variants="sgd", grid=grid) == [
        "sgd-lr=0.1-global=32-s0",
        "sgd-lr=0.1-global=64-s0",
        "sgd-lr=0.2-global=32-s0",
        "sgd-lr=0.2-global=64-s0",
    ]


def test_a_method_that_names_its_run_is_not_named_twice(tmp_path: Path) -> None:
    (tmp_path / "plain.yaml").write_text("run: {seed: 1}")
    grid = ("method.name=sgd,rwp",)
    assert names(config=tmp_path / "plain.yaml", variants=None, grid=grid) == ["sgd-s0", "rwp-s0"]


def test_runs_with_equal_settings_are_trained_once() -> None:
    assert names(variants="sgd,sgd", grid=("optimizer.lr=0.1,0.10",)) == ["sgd-lr=0.1-s0"]


@pytest.mark.parametrize(
    ("how", "key", "cure"),
    [
        ({"grid": ("optimizer.lr",)}, "--grid", "write section.key=value,value"),
        ({"seeds": 0}, "--seeds", "give 1 or more"),
        ({"overrides": ("run.label=x",)}, "run.label", "leave run.label to the sweep"),
    ],
)
def test_what_makes_no_sweep_is_refused(how, key: str, cure: str) -> None:
    with pytest.raises(ConfigError) as caught:
        names(**how)
    assert (caught.value.key, caught.value.cure) == (key, cure)
