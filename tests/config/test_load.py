"""Settings: precedence, one message with every error, nothing of torch."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from rwp_dist.base.errors import ConfigError, SettingsError
from rwp_dist.base.files import write_text
from rwp_dist.config import (
    Affects,
    Settings,
    affects,
    dump_settings,
    get_setting,
    known_keys,
    list_variants,
    load_settings,
    read_settings,
    values_by_key,
)
from rwp_dist.config.document import dump_document

ROOT = Path(__file__).parents[2]


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_command_line_beats_variant_beats_file_beats_defaults(tmp_path: Path) -> None:
    config = write(
        tmp_path / "c.yaml",
        "optimizer: {lr: 0.2, momentum: 0.8}\nmethod: {sigma: 0.3, rho: 0.4}\n"
        "variants:\n  a: {method.sigma: 0.5, method: {rho: 0.6}}\n",
    )
    settings = load_settings(config, ["variant=a", "method.rho=0.7"])
    assert settings.optimizer.weight_decay == Settings().optimizer.weight_decay
    assert settings.optimizer.lr == 0.2
    assert settings.method.sigma == 0.5
    assert settings.method.rho == 0.7
    assert list_variants(config) == ("a",)


def flags() -> list[str]:
    """Every setting that is true or false."""
    values = values_by_key(load_settings(None))
    return [key for key, value in values.items() if isinstance(value, bool)]


def problems_of(path: Path | None = None, *overrides: str) -> list[tuple[str | None, str]]:
    """Key and cure of everything that is wrong with some settings."""
    with pytest.raises(SettingsError) as caught:
        load_settings(path, overrides)
    return [(problem.key, str(problem.cure)) for problem in caught.value.problems]


def test_all_errors_come_at_once(tmp_path: Path) -> None:
    config = write(
        tmp_path / "c.yaml",
        "method: {sgma: 0.1}\nbatch: {global: many}\noptimizer: {nesterov: true, momentum: 0}\n",
    )
    with pytest.raises(SettingsError) as caught:
        load_settings(config)
    assert str(caught.value).splitlines() == [
        f"{config}: 3 errors",
        "  - method.sgma: unknown setting; did you mean method.sigma?",
        "  - batch.global: 'many' is not allowed; it should be a whole number "
        "(Samples of one update over all ranks, clean and perturbed ones "
        "together).",
        "  - optimizer.nesterov: works only for sgd with momentum; set optimizer.nesterov to "
        "false, or optimizer.name to sgd and optimizer.momentum above 0.",
    ]


@pytest.mark.parametrize(
    ("override", "key", "cure"),
    [
        ("lr=0.1", "lr", "did you mean optimizer.lr?"),
        ("method.lamda=0.1", "method.lamda", "did you mean method.lambda?"),
        ("optimizer.lr.x=1", "optimizer.lr.x", "did you mean optimizer.lr?"),
        ("qqqq={a: 1}", "qqqq", "`rwp-dist settings` lists all"),
        ("method=3", "method", "write method.<key>=value"),
        ("method=", "method", "write method.<key>=value"),
        ("method={}", "method", "write method.<key>=value"),
        ("method={1: 2}", "method.1", "name a setting, or quote it"),
        ("optimizer.betas=[2,3]", "optimizer.betas", "it should be less than 1"),
        ("optimizer.betas=[0.9,1.0]", "optimizer.betas", "it should be less than 1"),
        ("data.mix={a: 0, b: 1}", "data.mix.a", "it should be greater than 0"),
        ("data.mix={1: 0.5}", "data.mix.1", "it should be text, in quotes"),
        ("schedule.epochs=2024-13-45", "schedule.epochs", "it should be a number ("),
        ("method.lambda=1.5", "method.lambda", "it should be less than or equal to 1"),
        ("method.name=m-rpw", "method.name", "'m-rwp'"),
        ("precision=", "precision", "it should be 'fp32' or 'bf16'"),
        ("run.seed=true", "run.seed", "not true or false"),
        ("optimizer.lr=nan", "optimizer.lr", "it should be a finite number"),
        ("nonsense", None, "write section.key=value"),
        ("variant=x", "variant", "remove it"),
        ("variant=[1]", "variant", "remove it"),
        ("data.mean=[1,2]", "data.mean", "give 1 value"),
        ('data.train="a\\0b"', "data.train", "remove it"),
        ("data.lanes=5", "data.lanes", "set data.lanes to 1"),
        ("schedule.name=step", "schedule.decay_epochs", "set schedule.decay_epochs to"),
        ("schedule.decay_steps=[3]", "schedule.decay_epochs", "set schedule.name to step"),
        ("schedule.warmup_epochs=30", "schedule.warmup_epochs", "make it shorter"),
        ("method.warmup_epochs=30", "method.warmup_epochs", "make it shorter"),
    ],
)
def test_an_error_names_the_key_and_the_cure(override: str, key: str | None, cure: str) -> None:
    [(found_key, found_cure)] = problems_of(None, override)
    assert found_key == key
    assert cure in found_cure


def test_names_are_listed_once() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(None, ["method.name=x"])
    assert str(caught.value).count("last-sam") == 1


def test_a_missing_variant_lists_those_there_are(tmp_path: Path) -> None:
    config = write(tmp_path / "c.yaml", "variants: {a: , b: }\n")
    assert problems_of(config, "variant=c") == [("variant", "choose one of a, b")]


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("1: 2\n", ["1"]),
        ("method: {1: 2, sigma: -1}\n", ["method.1", "method.sigma"]),
        ("method: 3\nbatch: {global: 0}\n", ["method", "batch.global"]),
        ("precision:\n", ["precision"]),
        ("variants: [1]\n", ["variants"]),
        ("variants: {a: [1]}\n", ["variants.a"]),
        ("variants: {2: {method.sigma: 1}}\n", ["variants.2"]),
        ("variant: [1]\n", ["variant"]),
        ("variants: {a: {method: 3}}\nvariant: a\n", ["method"]),
    ],
)
def test_a_file_of_the_wrong_shape_is_a_list_of_errors(
    tmp_path: Path, text: str, keys: list[str]
) -> None:
    config = write(tmp_path / "c.yaml", text)
    assert [key for key, _ in problems_of(config)] == keys
    list_variants(config)  # raises nothing else


@pytest.mark.parametrize("text", ["[1]\n", "a: [\n", None])
def test_a_file_without_settings_is_one_error(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "c.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(str(path))) as caught:
        load_settings(path)
    assert caught.value.cure


def test_wrong_elements_of_a_list_are_one_error_and_hide_no_other() -> None:
    found = problems_of(None, "optimizer.betas=[2,3]", "optimizer.weight_decay=-1")
    assert [key for key, _ in found] == ["optimizer.betas", "optimizer.weight_decay"]


def test_a_wrong_value_does_not_make_its_default_conflict() -> None:
    found = problems_of(None, "optimizer.nesterov=true", "optimizer.momentum=0", "optimizer.name=x")
    assert [key for key, _ in found] == ["optimizer.name"]


def test_later_assignments_win_within_a_mapping(tmp_path: Path) -> None:
    config = write(
        tmp_path / "c.yaml",
        "deepspeed: {extra: {a: 1}}\nvariants:\n  v: {deepspeed.extra.b: 2}\n",
    )
    assert load_settings(config, ["variant=v"]).deepspeed.extra == {"a": 1, "b": 2}
    replaced = load_settings(config, ["variant=v", "deepspeed.extra={c: 3}"])
    assert replaced.deepspeed.extra == {"c": 3}


@pytest.mark.parametrize("text", ["variants:\n", "method:\nvariants: {}\n"])
def test_an_empty_section_of_a_file_says_nothing(tmp_path: Path, text: str) -> None:
    config = write(tmp_path / "c.yaml", text)
    assert load_settings(config).method == Settings().method
    assert list_variants(config) == ()


@pytest.mark.parametrize(
    "text", ["{data.mix.b: 2, data: {mix: {a: 1}}}", "{data: {mix: {a: 1}}, data.mix.b: 2}"]
)
def test_the_order_in_a_file_does_not_matter(tmp_path: Path, text: str) -> None:
    assert load_settings(write(tmp_path / "c.yaml", text)).data.mix == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("optimizer: {lr: 0.1}\noptimizer: {lr: 0.1}", "'optimizer' comes twice, in lines 1 and 2"),
        (
            "optimizer.lr: 0.1\noptimizer:\n  lr: 0.2",
            "'optimizer.lr' comes twice, in lines 1 and 3",
        ),
        ("variants:\n  a: {}\n  b: {}\n  a: {}", "'variants.a' comes twice, in lines 2 and 4"),
    ],
)
def test_what_a_file_says_twice_is_refused_with_both_lines(
    tmp_path: Path, text: str, where: str
) -> None:
    with pytest.raises(ConfigError, match=where):
        load_settings(write(tmp_path / "c.yaml", text))


def test_what_an_override_says_twice_is_refused_and_of_two_the_later_one_wins() -> None:
    with pytest.raises(SettingsError, match="'sigma' comes twice"):
        load_settings(None, ["method={sigma: 1, sigma: 2}"])
    assert load_settings(None, ["method.sigma=1", "method.sigma=2"]).method.sigma == 2


@pytest.mark.parametrize("text", ["yes", "on", "off", "1", "'true'", "y"])
@pytest.mark.parametrize("key", flags())
def test_only_true_and_false_are_true_and_false(key: str, text: str) -> None:
    assert problems_of(None, f"{key}={text}")[0][0] == key
    assert "it should be true or false" in problems_of(None, f"{key}={text}")[0][1]


def test_words_are_text_where_text_is_meant(tmp_path: Path) -> None:
    config = write(
        tmp_path / "c.yaml",
        "run: {label: no}\nmodel: {options: {act: off, lr: 1e-3, n: 010}}\n"
        "tracking: {wandb: off}\nvariants: {on: {method.sigma: 1e-1}}\n",
    )
    settings = load_settings(config, ["variant=on"])
    assert settings.run.label == "no" and settings.tracking.wandb == "off"
    assert settings.model.options == {"act": "off", "lr": 0.001, "n": 10}
    assert settings.method.sigma == 0.1
    again = load_settings(write(tmp_path / "again.yaml", dump_settings(settings)))
    assert values_by_key(again) == values_by_key(settings) | {"variant": None}


@pytest.mark.parametrize(
    ("text", "number"), [("010", 10), ("1_000", 1000), ("1e3", 1000), ("0x1f", 31), ("0o17", 15)]
)
def test_a_number_is_the_same_in_a_file_and_on_the_command_line(
    tmp_path: Path, text: str, number: int
) -> None:
    config = write(
        tmp_path / "c.yaml", f"run: {{seed: {text}}}\nvariants: {{v: {{run.seed: {text}}}}}"
    )
    for path, overrides in ((config, []), (config, ["variant=v"]), (None, [f"run.seed={text}"])):
        assert load_settings(path, overrides).run.seed == number


def test_a_section_is_added_to_and_never_reset(tmp_path: Path) -> None:
    config = write(
        tmp_path / "c.yaml",
        "method: {sigma: 0.3, rho: 0.4}\n"
        "variants: {a: {method: }, b: {method: {rho: 1}}, 'off': }\n",
    )
    for variant in ("a", "off"):
        assert load_settings(config, [f"variant={variant}"]).method.sigma == 0.3
    assert load_settings(config, ["variant=b"]).method.sigma == 0.3
    method = load_settings(config, ["method={rho: 2}"]).method
    assert (method.sigma, method.rho) == (0.3, 2)
    mix = load_settings(config, ["data.mix={data/a.b: 1}"]).data.mix
    assert mix == {"data/a.b": 1}  # a folder, not keys


def test_what_is_swept_is_left_out_where_it_has_no_use() -> None:
    swept = ["method.sigma=0.7", "method.antithetic=true", "optimizer.lr=0.3"]
    sgd, _ = read_settings(None, ["method.name=sgd"], swept)
    assert (sgd.method.sigma, sgd.method.antithetic, sgd.optimizer.lr) == (0.0, False, 0.3)
    rwp, _ = read_settings(None, ["method.name=rwp"], swept)
    assert (rwp.method.sigma, rwp.method.antithetic, rwp.optimizer.lr) == (0.7, True, 0.3)
    _, problems = read_settings(None, swept=["method.sgma=1"])
    assert [problem.key for problem in problems] == ["method.sgma"]


ODD = (
    "a #b",
    "1e3",
    "true",
    "[a]",
    "a: b",
    "a: b: c",
    "{",
    "- x",
    "*a",
    "it's",
    '"q"',
    "\u00e9 \U0001f680",
)


@pytest.mark.parametrize("name", ODD)
def test_any_name_chooses_its_variant(tmp_path: Path, name: str) -> None:
    config = write(tmp_path / "c.yaml", dump_document({"variants": {name: {"method.sigma": 0.3}}}))
    quoted = json.dumps(name, ensure_ascii=False)
    for written in (quoted, f" {quoted} ", *([] if name.startswith('"') else [name])):
        assert load_settings(config, [f"variant={written}"]).variant == name
    for none in ("", "null", "~"):
        assert load_settings(config, [f"variant={none}"]).variant is None


def numbers() -> list[str]:
    """Every setting that is a number, or several."""
    kinds: dict[str, object] = {}
    for name, field in Settings.model_fields.items():
        if isinstance(section := field.annotation, type) and issubclass(section, BaseModel):
            for key, each in section.model_fields.items():
                kinds[f"{name}.{each.alias or key}"] = each.annotation
    return [
        key
        for key, kind in kinds.items()
        if re.search(r"\b(int|float)\b|Literal\[\d", str(kind)) or kind in (int, float)
    ]


@pytest.mark.parametrize("key", numbers())
def test_true_is_no_number(key: str) -> None:
    key, value = ("data.mix.a", "true") if key == "data.mix" else (key, "true")
    for given in (value, f"[{value}, {value}]"):
        [(found, _)] = problems_of(None, f"{key}={given}")
        assert found == key


def test_there_are_many_numbers() -> None:
    assert len(numbers()) > 40
    assert {"batch.global", "data.mean", "optimizer.betas"} <= {*numbers()}


@pytest.mark.parametrize("override", ["method.name=sam", "method.antithetic=true"])
def test_what_stage_3_cannot_do_is_refused_with_the_cure(override: str) -> None:
    [(_, cure)] = problems_of(None, override, "deepspeed.zero_stage=3")
    assert cure == "set deepspeed.zero_stage to 2"


def test_a_compiled_network_is_refused_at_stage_3() -> None:
    [found] = problems_of(None, "run.compile=true", "deepspeed.zero_stage=3")
    assert found == ("run.compile", "set it to false, or deepspeed.zero_stage to 2")


def test_what_is_written_reads_back_unchanged(tmp_path: Path) -> None:
    settings = load_settings(None, ["method.exclude=['*.bias']", "tracking.wandb=off"])
    again = load_settings(write(tmp_path / "config.yaml", dump_settings(settings)))
    assert again == settings


def test_a_run_is_named_after_its_variant_or_method_and_seed(tmp_path: Path) -> None:
    config = write(tmp_path / "c.yaml", "variants:\n  long: {schedule.epochs: 40}\n")
    assert load_settings(config, ["run.seed=2"]).run.dir == "runs/c/m-rwp-s2"
    assert load_settings(None, ["run.seed=2"]).run.dir == "runs/m-rwp-s2"
    assert load_settings(config, ["run.name=mine"]).run.dir == "runs/c/mine"
    assert load_settings(config, ["variant=long"]).run.name == "long-s0"
    assert load_settings(config, ["run.label=x"]).tracking.group == "x"


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("run.threads", Affects.ROUNDING),
        ("deepspeed.overlap_comm", Affects.ROUNDING),  # of its section
        ("deepspeed.zero_stage", Affects.SPLIT),  # at stage 3 all ranks share one noise
        ("batch.per_rank", Affects.SPLIT),
        ("data.val", Affects.PLACE),
        ("data.mix", Affects.RESULT),
        ("tracking.log_every", Affects.NOTHING),
        ("evaluation.every_epochs", Affects.NOTHING),
        ("evaluation.recalibrate_batches", Affects.RESULT),
        ("method.lambda", Affects.RESULT),
        ("precision", Affects.RESULT),
        ("no.such.key", Affects.RESULT),
    ],
)
def test_a_setting_says_what_it_affects(key: str, what: Affects) -> None:
    assert affects(key) is what


def test_every_setting_has_a_docstring() -> None:
    assert [key.name for key in known_keys().values() if not key.meaning] == []


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_config_and_variant_of_the_project_is_valid(path: Path) -> None:
    for overrides in ([], *([f"variant={name}"] for name in list_variants(path))):
        load_settings(path, overrides)


def test_help_imports_no_torch() -> None:
    code = (
        "import sys\nfrom rwp_dist.cli import main\n"
        "try: main(['--help'])\n"
        "finally: assert not {'torch', 'deepspeed'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_settings_error_comes_within_a_second_and_without_torch() -> None:
    code = (
        "import sys, time\nfrom rwp_dist.cli import main\n"
        "try: main(['train', 'configs/digits.yaml', 'method.sgma=1'])\n"
        "finally: assert 'torch' not in sys.modules; print(time.process_time())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "did you mean method.sigma?" in done.stderr
    assert "Traceback" not in done.stderr
    assert float(done.stdout) < 1.0  # seconds of the CPU, so that a busy machine does not count


@pytest.mark.parametrize("value", ["a #b", "#b", "|", "&x"])
def test_a_part_of_an_override_that_yaml_drops_is_refused(value: str) -> None:
    [(key, cure)] = problems_of(None, f"run.label={value}")
    assert key == "run.label" and "quotes" in cure
    quoted = load_settings(None, [f"run.label='{value}'"])
    assert quoted.run.label == value
    assert load_settings(None, ["run.label=a#b"]).run.label == "a#b"


@pytest.mark.parametrize("value", [".inf", ".nan", "[1, {b: -.inf}]"])
@pytest.mark.parametrize("key", ["model.options", "optimizer.options", "deepspeed.extra"])
def test_numbers_that_files_cannot_keep_are_refused(key: str, value: str) -> None:
    assert problems_of(None, f"{key}={{a: {value}}}")[0][0] == key


KEYS = ["run.dir", "data.train", "data.val", "data.cache_dir", "model.init"]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    "place",
    ["a b", "a,b", "a: b", "a #b", "-a", "a\nb", "[a]", "{a}", "*a", "%a", "@a", "true", "1e3",
     "a'b", 'a"b', "a\udce9", "s3://b/a?x#y"],
)  # fmt: skip
def test_a_place_is_what_is_written_on_the_command_line(key: str, place: str) -> None:
    for word in (place, dump_document(place).removesuffix("...\n").strip()):
        settings = load_settings(None, [f"{key}={word}"])
        assert get_setting(settings, key) == place


def test_a_place_whose_name_is_not_utf8_is_written_and_read_again(tmp_path: Path) -> None:
    settings = load_settings(None, ["run.dir=b\udcff", "data.train=a\udce9"])
    write_text(tmp_path / "c.yaml", dump_settings(settings))
    again = load_settings(tmp_path / "c.yaml")
    assert (again.run.dir, again.data.train) == ("b\udcff", "a\udce9")
