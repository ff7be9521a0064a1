"""DeepSpeed's configuration: what it gets, and what is refused before training starts."""

import subprocess
import sys

import pytest

from rwp_dist.base.errors import ConfigError, SettingsError
from rwp_dist.config import load_settings, split_batch
from rwp_dist.engine.deepspeed.config import check_extra, deepspeed_config
from rwp_dist.engine.memory import BUCKET_ELEMENTS


def config_of(*overrides: str, world_size: int = 1) -> dict[str, object]:
    settings = load_settings(None, ["method.name=sgd", *overrides])
    return deepspeed_config(settings, split_batch(settings, world_size))


def test_it_says_what_the_settings_say_and_extra_adds_to_it() -> None:
    config = config_of(
        "precision=bf16",
        "optimizer.clip_norm=1",
        "batch.per_rank=8",
        "deepspeed.zero_stage=2",
        "deepspeed.overlap_comm=true",
        "deepspeed.extra={zero_optimization: {reduce_bucket_size: 1000}, dump_state: true}",
        world_size=2,
    )
    assert config["zero_optimization"] == {
        "stage": 2,
        "overlap_comm": True,
        "reduce_bucket_size": 1000,
        "allgather_bucket_size": BUCKET_ELEMENTS,
    }
    assert config["torch_autocast"] == {
        "enabled": True,
        "dtype": "bfloat16",
        "lower_precision_safe_modules": [],
    }
    assert config["gradient_clipping"] == 1
    assert config["dump_state"] is True
    assert config["train_batch_size"] == 64
    assert config["train_micro_batch_size_per_gpu"] == 8
    assert config["gradient_accumulation_steps"] == 4


@pytest.mark.parametrize(
    ("extra", "cure"),
    [
        ("bf16={enabled: true}", "remove it, and set precision"),
        ("bfloat16={enabled: true}", "remove it, and set precision"),
        ("train_batch_size=3", "remove it, and set batch.global"),
        ("optimizer={type: Adam}", "remove it, and set optimizer.*"),
        ("gradient_clipping=7", "remove it"),
    ],
)
def test_what_other_settings_decide_is_refused_in_extra(extra: str, cure: str) -> None:
    with pytest.raises(SettingsError) as caught:
        config_of(f"deepspeed.extra.{extra}")
    [problem] = caught.value.problems
    assert problem.key == f"deepspeed.extra.{extra.partition('=')[0]}"
    assert problem.cure == cure


def test_another_stage_than_that_of_the_settings_is_refused() -> None:
    with pytest.raises(SettingsError) as caught:
        config_of("deepspeed.zero_stage=1", "deepspeed.extra.zero_optimization.stage=2")
    [problem] = caught.value.problems
    assert problem.key == "deepspeed.extra.zero_optimization.stage"
    assert problem.cure == "remove it"


@pytest.mark.parametrize("stage", ["auto", "0"])
@pytest.mark.parametrize("extra", ["stage: 2", "reduce_bucket_size: 1000"])
def test_what_zero_alone_reads_is_refused_without_a_stage_of_it(stage: str, extra: str) -> None:
    asked = (f"deepspeed.zero_stage={stage}", f"deepspeed.extra={{zero_optimization: {{{extra}}}}}")
    with pytest.raises(SettingsError) as caught:
        config_of(*asked)
    [problem] = caught.value.problems
    assert problem.key == "deepspeed.extra.zero_optimization"
    assert problem.problem.endswith("and deepspeed.zero_stage names none of them")
    assert problem.cure == "set deepspeed.zero_stage to 1 or 2, or remove it"


def test_all_contradictions_come_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        config_of("deepspeed.extra={gradient_clipping: 7, amp: {}, dump_state: true}")
    assert [problem.key for problem in caught.value.problems] == [
        "deepspeed.extra.amp",
        "deepspeed.extra.gradient_clipping",
    ]


@pytest.mark.parametrize(
    ("extra", "cure"),
    [("bogus=1", "remove it"), ("wall_clock_brakedown=true", "did you mean wall_clock_breakdown?")],
)
def test_a_key_that_deepspeed_does_not_know_is_refused(extra: str, cure: str) -> None:
    with pytest.raises(SettingsError) as caught:
        check_extra(config_of(f"deepspeed.extra.{extra}"))
    [problem] = caught.value.problems
    assert problem.key == f"deepspeed.extra.{extra.partition('=')[0]}"
    assert problem.cure == cure


@pytest.mark.parametrize(
    "extra",
    [
        "elasticity={enabled: true}",  # removed from DeepSpeed, which says so
        "zero_optimization.reduce_bucket_size=many",
        "zero_optimization.no_such_option=1",
    ],
)
def test_what_deepspeed_refuses_itself_is_an_error_in_the_settings(extra: str) -> None:
    with pytest.raises(ConfigError, match="DeepSpeed refuses it") as caught:
        check_extra(config_of("deepspeed.zero_stage=1", f"deepspeed.extra.{extra}"))
    assert caught.value.key == "deepspeed.extra"


@pytest.mark.parametrize(
    "extra",
    [
        "communication_data_type=fp32",
        "dump_state=true",
        "flops_profiler={enabled: true}",
        "comms_logger={enabled: false}",
        "gradient_predivide_factor=2.0",
        "tensorboard={enabled: false}",
        "torch_autocast.lower_precision_safe_modules=[torch.nn.Linear]",
        "vocabulary_size=64",
        "wall_clock_breakdown=true",
        "zero_optimization.reduce_bucket_size=1000",
    ],
)
def test_deepspeed_knows_what_its_documentation_lists(extra: str) -> None:
    check_extra(config_of("deepspeed.zero_stage=1", f"deepspeed.extra.{extra}"))


def test_the_command_line_refuses_contradictions_without_torch() -> None:
    code = (
        "import sys\nfrom rwp_dist.cli import main\n"
        "try: main(['train', 'configs/digits.yaml', 'deepspeed.extra.amp={}'])\n"
        "finally: assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "deepspeed.extra.amp" in done.stderr
