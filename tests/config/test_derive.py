"""What follows from the settings: the split of a batch and DeepSpeed's configuration."""

import pytest

from rwp_dist.config import deepspeed_config, load_settings, split_batch
from rwp_dist.errors import ConfigError


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("method", ["sgd", "m-rwp"])
def test_slots_share_the_batch_exactly_and_fit_per_rank(world_size: int, method: str) -> None:
    settings = load_settings(
        None, ["batch.global=96", "batch.per_rank=16", f"method.name={method}"]
    )
    split = split_batch(settings, world_size)
    assert split.world_size * split.micro_batches * split.size == 96
    assert split.size <= 16


def test_a_mixed_method_on_one_rank_gets_two_micro_batches() -> None:
    assert split_batch(load_settings(None, ["method.name=m-rwp"]), 1).micro_batches == 2
    assert split_batch(load_settings(None, ["method.name=sgd"]), 1).micro_batches == 1


@pytest.mark.parametrize(
    ("overrides", "world_size", "cure"),
    [
        (["batch.global=64"], 3, "set it to 63 or 66"),
        (["batch.global=1"], 1, "set batch.global to 2"),
        (["method.antithetic=true"], 2, "needs two perturbed slots"),
        (["deepspeed.zero_stage=3", "method.name=m-rwp"], 2, "set deepspeed.zero_stage to 2"),
    ],
)
def test_a_batch_that_ranks_cannot_share_is_refused_with_the_cure(
    overrides: list[str], world_size: int, cure: str
) -> None:
    with pytest.raises(ConfigError, match=cure):
        split_batch(load_settings(None, overrides), world_size)


def test_the_cure_of_a_refused_batch_works() -> None:
    settings = load_settings(None, ["method.antithetic=true", "batch.per_rank=16"])
    assert split_batch(settings, 2).slots >= 4


def test_deepspeed_gets_what_the_settings_say_and_extra_adds_to_it() -> None:
    settings = load_settings(
        None,
        [
            "precision=bf16",
            "optimizer.clip_norm=1",
            "deepspeed.zero_stage=2",
            "deepspeed.overlap_comm=true",
            "deepspeed.extra={zero_optimization: {reduce_bucket_size: 1000}, dump_state: true}",
        ],
    )
    config = deepspeed_config(settings, split_batch(settings, 2))
    assert config["zero_optimization"] == {
        "stage": 2,
        "overlap_comm": True,
        "reduce_bucket_size": 1000,
    }
    assert config["torch_autocast"]["enabled"] is True
    assert config["gradient_clipping"] == 1
    assert config["dump_state"] is True
    assert config["train_batch_size"] == 64
    assert config["train_micro_batch_size_per_gpu"] * config["gradient_accumulation_steps"] == 32
