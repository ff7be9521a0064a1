"""Settings: precedence, one message with every error, nothing of torch."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import BaseModel

from rwp_dist.base.errors import ConfigError
from rwp_dist.config import (
    Affects,
    Settings,
    affects,
    differences,
    dump_settings,
    known_keys,
    list_variants,
    load_settings,
)

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


def test_three_errors_come_in_one_message_each_with_its_cure(tmp_path: Path) -> None:
    config = write(
        tmp_path / "c.yaml",
        "method: {sgma: 0.1}\nbatch: {global: many}\noptimizer: {nesterov: true, momentum: 0}\n",
    )
    with pytest.raises(ConfigError) as caught:
        load_settings(config)
    text = str(caught.value)
    assert "3 errors" in text
    assert "method.sgma: unknown setting; did you mean method.sigma?" in text
    assert "batch.global: 'many'" in text
    assert "optimizer.nesterov: works only for sgd with momentum; set" in text


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("lr=0.1", "did you mean optimizer.lr?"),
        ("method.lamda=0.1", "did you mean method.lambda?"),
        ("method=3", "is a section"),
        ("method=", "is a section; write method.<key>"),
        ("method={}", "is a section; write method.<key>"),
        ("method={1: 2}", "method.1: the key 1 is no text"),
        ("optimizer.betas=[2,3]", "optimizer.betas: 2 will not do: input should be less than 1"),
        ("optimizer.betas=[0.9,1.0]", "optimizer.betas: 1.0 will not do"),
        ("data.mix={a: 0, b: -1}", "data.mix.a: 0 will not do"),
        ("schedule.epochs=2024-13-45", "no valid YAML"),
        ("variant=[1]", "no variant '[1]'"),
        ("method.lambda=1.5", "less than or equal to 1"),
        ("method.name=m-rpw", "'m-rwp'"),
        ("run.seed=true", "not true or false"),
        ("optimizer.lr=nan", "finite"),
        ("nonsense", "write section.key=value"),
        ("variant=x", "no variant 'x'"),
        ("data.mean=[1,2]", "2 values for 1 channels; give 1 or 1"),
        ("schedule.name=step", "schedule.decay_epochs"),
        ("schedule.warmup_epochs=30", "make it shorter"),
        ("deepspeed.extra.bf16={enabled: true}", "use precision instead"),
        ("deepspeed.extra.train_batch_size=3", "follows from batch.global"),
        ("deepspeed.extra.zero_optimization={stage: 2}", "zero_optimization.stage is 2"),
        ("deepspeed.extra.bogus=1", "DeepSpeed has no such key; remove it."),
        ("deepspeed.extra.wall_clock_brakedown=true", "did you mean wall_clock_breakdown?"),
        ("deepspeed.extra.bfloat16={enabled: true}", "use precision instead"),
    ],
)
def test_an_error_names_the_key_and_the_cure(override: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(None, [override])
    assert words in str(caught.value)
    assert ("2 errors" if override.startswith("data.mix") else "1 error") in str(caught.value)


@pytest.mark.parametrize(
    ("override", "end"),
    [
        ("lr=0.1", "lr: unknown setting; did you mean optimizer.lr?"),
        ("qqqq=0.1", "qqqq: unknown setting; `rwp-dist settings` lists all."),
    ],
)
def test_a_suggestion_is_the_end_of_its_sentence(override: str, end: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(None, [override])
    assert str(caught.value).endswith(end)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("1: 2\n", ["1: the key 1 is no text"]),
        ("method: {1: 2, sigma: -1}\n", ["method.1: the key 1", "method.sigma: -1"]),
        ("method: 3\nbatch: {global: 0}\n", ["batch.global: 0", "method: is a section"]),
        ("precision:\n", ["precision: None"]),
        ("variants: [1]\n", ["variants: [1] will not do"]),
        ("variants: {a: [1]}\n", ["variants.a: [1] will not do"]),
        ("variants: {2: {method.sigma: 1}}\n", ["variants.2: the key 2 is no text"]),
        ("variant: [1]\n", ["variant: "]),
        ("variants: {a: {method: 3}}\nvariant: a\n", ["method: is a section"]),
    ],
)
def test_a_file_of_the_wrong_shape_is_a_list_of_errors(
    tmp_path: Path, text: str, lines: list[str]
) -> None:
    config = write(tmp_path / "c.yaml", text)
    with pytest.raises(ConfigError) as caught:
        load_settings(config)
    found = str(caught.value).splitlines()[1:]
    assert len(found) == len(lines), caught.value
    for line, words in zip(found, lines, strict=True):
        assert line.startswith(f"  - {words}")
    list_variants(config)  # raises nothing else


def test_wrong_elements_of_a_list_are_one_error_and_hide_no_other() -> None:
    with pytest.raises(ConfigError, match="2 errors") as caught:
        load_settings(None, ["optimizer.betas=[2,3]", "optimizer.weight_decay=-1"])
    assert "optimizer.betas: 2" in str(caught.value)
    assert "optimizer.weight_decay: -1" in str(caught.value)


@pytest.mark.parametrize("text", ["variants:\n", "method:\nvariants: {}\n"])
def test_an_empty_section_of_a_file_says_nothing(tmp_path: Path, text: str) -> None:
    config = write(tmp_path / "c.yaml", text)
    assert load_settings(config).method == Settings().method
    assert list_variants(config) == ()


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
        with pytest.raises(ConfigError, match="1 error"):
            load_settings(None, [f"{key}={given}"])


def test_there_are_many_numbers() -> None:
    assert len(numbers()) > 40
    assert {"batch.global", "data.mean", "deepspeed.zero_stage", "optimizer.betas"} <= {*numbers()}


def test_sam_on_stage_3_is_refused_with_the_reason_and_the_cure() -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(None, ["method.name=sam", "deepspeed.zero_stage=3"])
    assert "whole gradients" in str(caught.value)
    assert "set deepspeed.zero_stage to 2" in str(caught.value)


def test_what_is_written_reads_back_unchanged(tmp_path: Path) -> None:
    settings = load_settings(None, ["method.exclude=['*.bias']", "tracking.wandb=off"])
    again = load_settings(write(tmp_path / "config.yaml", dump_settings(settings)))
    assert again == settings
    assert differences(settings, again) == []
    other = load_settings(None, ["method.sigma=9", "tracking.wandb=off"])
    assert "method.sigma: 0.01 -> 9.0" in map(str, differences(settings, other))


def test_a_run_is_named_after_its_variant_or_method_and_seed(tmp_path: Path) -> None:
    config = write(tmp_path / "c.yaml", "variants:\n  long: {schedule.epochs: 40}\n")
    assert load_settings(config, ["run.seed=2"]).run.dir == "runs/m-rwp-s2"
    assert load_settings(config, ["variant=long"]).run.name == "long-s0"
    assert load_settings(config, ["run.label=x"]).tracking.group == "x"


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("run.threads", Affects.ROUNDING),
        ("deepspeed.zero_stage", Affects.ROUNDING),  # of its section
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
    assert [key for key, meaning in known_keys() if not meaning] == []


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
        "import sys\nfrom rwp_dist.cli import main\n"
        "try: main(['train', 'configs/digits.yaml', 'method.sgma=1'])\n"
        "finally: assert 'torch' not in sys.modules"
    )
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "did you mean method.sigma?" in done.stderr
    assert "Traceback" not in done.stderr
    assert time.perf_counter() - begin < 3.0  # under one second on an idle machine
