"""The runs of a sweep."""

import json
from pathlib import Path

import pytest

from rwp_dist.base.errors import ConfigError, SettingsError
from rwp_dist.config import check_grid, expand, left_out

CONFIG = Path(__file__).parents[2] / "configs" / "digits.yaml"


def names(**how) -> list[str]:
    known = {"variants": "sgd,rwp", "grid": (), "seeds": 1, "folder": Path("/runs")}
    config, overrides = how.pop("config", CONFIG), how.pop("overrides", ())
    runs = expand(config, overrides, **(known | how))
    assert all(settings.run.dir == f"/runs/{settings.run.name}" for settings in runs)
    return [str(settings.run.name) for settings in runs]


def test_addresses_are_one_place_whatever_opens_them_and_others_are_others() -> None:
    one = ("http://me:a@h/t", "http://you:b@h/t", "http://h/t?sig=1", "http://h/t")
    others = ("http://h/u", "http://g/t", "https://h/t", "http://h:81/t", "/t", "s3://h/t?a")
    found = names(grid=[f"data.train={','.join((*one, *others))}"], variants="sgd")
    assert len(found) == 1 + len(others)
    assert not any(secret in name for name in found for secret in ("me", "you", "sig"))


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
    (tmp_path / "plain.yaml").write_text("")
    grid = ("method.name=sgd,rwp",)
    assert names(config=tmp_path / "plain.yaml", variants=None, grid=grid) == ["sgd-s0", "rwp-s0"]


def test_runs_with_equal_settings_are_trained_once() -> None:
    assert names(variants="sgd,sgd", grid=("optimizer.lr=0.1,0.10",)) == ["sgd-lr=0.1-s0"]


def seeds(**how) -> list[int]:
    known = {"overrides": (), "variants": "sgd", "grid": (), "seeds": None, "folder": Path("/runs")}
    config = how.pop("config", CONFIG)
    return [run.run.seed for run in expand(config, **(known | how))]


def test_seeds_are_those_that_a_person_wrote(tmp_path: Path) -> None:
    assert seeds() == [0, 1, 2]
    assert seeds(seeds=2, overrides=("run.seed=100",)) == [100, 101]
    for count in (1, None):
        assert seeds(seeds=count, grid=("run.seed=10,012,0x10",)) == [10, 12, 16]
    assert names(grid=("run.seed=7,5", "optimizer.lr=1,2"), variants="sgd") == [
        *("sgd-lr=1-s7", "sgd-lr=2-s7", "sgd-lr=1-s5", "sgd-lr=2-s5")
    ]
    file = tmp_path / "c.yaml"
    file.write_text("run: {seed: 4}\nvariants: {a: {}, b: {run.seed: 20}}")
    assert seeds(config=file, variants=None, seeds=2) == [4, 20, 5, 21]
    file.write_text("run: {seed: 4}")
    assert names(config=file, variants=None) == ["m-rwp-s4"]


def test_values_with_commas_are_single_values() -> None:
    grid = ["augment.scale=[0.08,1.0],[0.5, 1.0]", "model.options={a: 1, b: 2}"]
    crop = ("augment.crop=random_resized",)
    runs = expand(CONFIG, crop, variants="sgd", grid=grid, seeds=1, folder=Path("/runs"))
    assert [run.augment.scale for run in runs] == [(0.08, 1.0), (0.5, 1.0)]
    assert all(run.model.options == {"a": 1, "b": 2} for run in runs)


def test_a_setting_is_not_multiplied_over_runs_that_have_no_use_for_it() -> None:
    grid = ("method.sigma=0.1,0.2", "method.rho=0.3,0.4", "method.antithetic=true")
    assert names(variants="sgd,sam,rwp", grid=grid) == [
        *("sgd-s0", "sam-rho=0.3-s0", "sam-rho=0.4-s0"),
        *("rwp-sigma=0.1-antithetic=true-s0", "rwp-sigma=0.2-antithetic=true-s0"),
    ]
    grid = ("optimizer.name=sgd,adamw", "optimizer.momentum=0.8,0.9", "optimizer.eps=1,2")
    assert names(variants="sgd", grid=grid) == [
        *("sgd-optimizer.name=sgd-momentum=0.8-s0", "sgd-optimizer.name=sgd-momentum=0.9-s0"),
        *("sgd-optimizer.name=adamw-eps=1-s0", "sgd-optimizer.name=adamw-eps=2-s0"),
    ]


def test_what_is_left_out_is_said() -> None:
    grid = ("method.sigma=0.1,0.2", "optimizer.lr=0.1,0.2", "method.eta=1")
    runs = expand(CONFIG, (), variants="sgd,rwp", grid=grid, seeds=1, folder=Path("/runs"))
    assert left_out(runs, grid) == [
        "method.sigma is left out of 2 of 6 runs, where it has no use: sgd-lr=0.1-s0, "
        "sgd-lr=0.2-s0",
        "method.eta is left out of 6 of 6 runs, where it has no use: sgd-lr=0.1-s0, "
        "sgd-lr=0.2-s0, rwp-sigma=0.1-lr=0.1-s0, rwp-sigma=0.1-lr=0.2-s0, ...",
    ]


def test_a_sweep_that_is_extended_finds_its_folders() -> None:
    few = ["data.train=/a/t,/b/t", "optimizer.lr=0.1"]
    more = ["data.train=/c/t,/b/t,t,/a/t", "optimizer.lr=0.2,0.1,0.10"]
    assert {*names(grid=few)} < {*names(grid=more, variants="sgd,sam,rwp", seeds=2)}


LISTS = "write section.key=value,value, and a value with a comma or a bracket in quotes"


@pytest.mark.parametrize(
    ("how", "key", "cure"),
    [
        ({"grid": ("optimizer.lr",)}, "--grid", LISTS),
        ({"grid": ("optimizer.lr=1,,2",)}, "--grid", LISTS),
        ({"grid": ("optimizer.lr=1,2,",)}, "--grid", LISTS),
        ({"grid": ("optimizer.betas=[1,2",)}, "--grid", LISTS),
        ({"grid": ("optimizer.lr=1", "optimizer.lr=2")}, "optimizer.lr", "put them into one"),
        ({"grid": ("variant=sgd,rwp",)}, "variant", "name variants with --variants"),
        ({"overrides": ("variant=sgd",)}, "variant", "name variants with --variants"),
        ({"overrides": ("run.dir=x",)}, "run.dir", "leave it out: --dir says where the runs go"),
        ({"grid": ("run.name=x,y",)}, "run.name", "leave it out: a sweep names its runs"),
        ({"grid": ("run.seed=1,2",), "seeds": 3}, "--seeds", "leave it out"),
        ({"seeds": 0}, "--seeds", "give 1 or more"),
        ({"seeds": 10**6}, "--seeds", "give at most 10000"),
        ({"variants": "sgd,"}, "--variants", "remove it"),
        ({"variants": ""}, "--variants", "remove it"),
        (
            {"overrides": ("run.label=x",)},
            "run.label",
            "leave run.label to the sweep, or rename a variant",
        ),
    ],
)
def test_what_makes_no_sweep_is_refused(how, key: str, cure: str) -> None:
    with pytest.raises(ConfigError) as caught:
        names(**how)
    assert (caught.value.key, caught.value.cure) == (key, cure)


def test_variants_that_a_disk_takes_for_one_are_refused(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("variants: {a: {optimizer.lr: 1}, A: {optimizer.lr: 2}}")
    with pytest.raises(ConfigError, match="two runs would have the directory"):
        names(config=tmp_path / "c.yaml", variants=None)


def test_a_setting_is_in_the_grid_or_an_override() -> None:
    check_grid(["optimizer.lr=1,2"], ["optimizer.momentum=0"])
    for override in ("optimizer.lr=3", "optimizer={lr: 3}"):
        with pytest.raises(ConfigError, match="and so has an override; keep one of") as caught:
            check_grid(["optimizer.lr=1,2"], [override])
        assert caught.value.key == "optimizer.lr"


def refused(**how) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        names(**how)
    return [f"{problem.key}: {problem.problem}" for problem in caught.value.problems]


def test_all_that_is_wrong_with_a_sweep_is_told_at_once_and_once() -> None:
    grid = ("method.sigma=0.1,x", "optimizer.lr=y", "method.sgima=1,2", "batch.global=-1,8")
    found = refused(variants="sgd,rwp,sdg,pwr", grid=grid, seeds=2)
    assert [text.partition("/")[0] for text in found if text.startswith("variant")] == [
        *("variant: there is no variant 'sdg' in ", "variant: there is no variant 'pwr' in ")
    ]
    assert sorted(text for text in found if not text.startswith("variant")) == [
        "batch.global: -1 is not allowed",
        "method.sgima: unknown setting",
        "method.sigma: 'x' is not allowed",
        "optimizer.lr: 'y' is not allowed",
    ]


def test_what_is_wrong_with_some_runs_names_what_they_share(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("variants: {a: {}, b: {batch.global: 0}}")
    assert refused(config=tmp_path / "c.yaml", variants=None) == [
        "batch.global: 0 is not allowed (with variant=b)"
    ]
    (tmp_path / "c.yaml").write_text("{}")
    grid = ("optimizer.lr=1,2", "schedule.warmup_steps=5,10", "schedule.steps=8,20")
    (found,) = refused(config=tmp_path / "c.yaml", variants=None, grid=grid)
    assert found.endswith(" (with schedule.steps=8)")
    (found,) = refused(grid=("run.seed=1,-2",))
    assert found == "run.seed: -2 is not allowed"


@pytest.mark.parametrize("name", ["a #b", "1e3", "true", "[a]", "a: b", "{", "it's", '"q"'])
def test_variants_of_any_name_are_swept(tmp_path: Path, name: str) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(json.dumps({"variants": {name: {"method.sigma": 0.3}}}))
    how = {"variants": None, "grid": (), "seeds": 1, "folder": Path("/runs")}
    (run,) = expand(config, (), **how)
    assert (run.variant, run.method.sigma) == (name, 0.3)
    (run,) = expand(config, (), **(how | {"variants": name}))
    assert run.variant == name


def test_a_value_is_checked_although_no_run_has_a_use_for_it() -> None:
    with pytest.raises(SettingsError) as caught:
        names(variants="sgd", grid=("method.sigma=0.1,abc",))
    assert [problem.key for problem in caught.value.problems] == ["method.sigma"]
