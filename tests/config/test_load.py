"""Settings: precedence, one message with every error, nothing of torch."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from rwp_dist.config import (
    Settings,
    differences,
    dump_settings,
    known_keys,
    list_variants,
    load_settings,
)
from rwp_dist.errors import ConfigError

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
    ],
)
def test_an_error_names_the_key_and_the_cure(override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=r"1 error") as caught:
        load_settings(None, [override])
    assert words in str(caught.value)


def test_sam_on_stage_3_is_refused_with_the_reason_and_the_cure() -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(None, ["method.name=sam", "deepspeed.zero_stage=3"])
    assert "whole gradients" in str(caught.value)
    assert "set deepspeed.zero_stage to 2" in str(caught.value)


def test_what_is_written_reads_back_unchanged(tmp_path: Path) -> None:
    settings = load_settings(None, ["method.exclude=['*.bias']", "tracking.wandb=off"])
    again = load_settings(write(tmp_path / "config.yaml", dump_settings(settings)))
    assert again == settings
    assert list(differences(settings, again)) == []
    other = load_settings(None, ["method.sigma=9", "tracking.wandb=off"])
    assert "method.sigma: 0.01 -> 9.0" in list(differences(settings, other))


def test_a_run_is_named_after_its_variant_or_method_and_seed(tmp_path: Path) -> None:
    config = write(tmp_path / "c.yaml", "variants:\n  long: {schedule.epochs: 40}\n")
    assert load_settings(config, ["run.seed=2"]).run.dir == "runs/m-rwp-s2"
    assert load_settings(config, ["variant=long"]).run.name == "long-s0"
    assert load_settings(config, ["run.label=x"]).tracking.group == "x"


def test_every_setting_has_a_docstring() -> None:
    assert [key for key, meaning in known_keys() if not meaning] == []


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_config_and_variant_of_the_project_is_valid(path: Path) -> None:
    for overrides in ([], *([f"variant={name}"] for name in list_variants(path))):
        load_settings(path, overrides)


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
