"""What follows from the settings: the split of a batch and DeepSpeed's configuration."""

import re
from typing import Any, get_args

import pytest

from rwp_dist.base.errors import ConfigError
from rwp_dist.config import deepspeed_config, load_settings, split_batch
from rwp_dist.config.deepspeed_keys import DEEPSPEED_KEYS
from rwp_dist.config.tree import MethodName
from rwp_dist.perturb.methods import METHODS


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
        (["batch.global=1"], 1, "set it to 2"),
        (["batch.global=254", "batch.per_rank=64"], 2, "set it to 252 or 256"),
        (["batch.global=65"], 1, "set it to 64 or 66"),
        (["batch.global=3"], 1, "set it to 2 or 4"),
        (["method.antithetic=true"], 2, "needs two perturbed slots.*set batch.per_rank to 16"),
        (["method.antithetic=true", "batch.global=66"], 3, "set batch.per_rank to 11"),
        (["method.antithetic=true", "batch.global=254"], 2, "set it to 252 or 256"),
        (["method.antithetic=true", "method.name=rwp"], 1, "has 1; set batch.per_rank to 32"),
        (["method.antithetic=true", "method.name=arwp", "batch.global=1"], 1, "batch.global to 2"),
        (["deepspeed.zero_stage=3", "method.name=m-rwp"], 2, "set deepspeed.zero_stage to 2"),
    ],
)
def test_a_batch_that_ranks_cannot_share_is_refused_with_the_cure(
    overrides: list[str], world_size: int, cure: str
) -> None:
    with pytest.raises(ConfigError, match=cure):
        split_batch(load_settings(None, overrides), world_size)


CURE = re.compile(
    r"set (?:(it|batch.global) to (\d+)(?: or (\d+))?)?(?: and )?(?:batch.per_rank to (\d+))?\.$"
)


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 8])
@pytest.mark.parametrize(
    ("method", "more"),
    [
        (method, more)
        for method in ("sgd", "rwp", "m-arwp")
        for more in ((), ("method.antithetic=true",), ("deepspeed.zero_stage=3",))
        if (method, more) != ("sgd", ("method.antithetic=true",))  # refused by the loader
    ],
)
def test_every_printed_cure_of_a_refused_batch_works(
    world_size: int, method: str, more: tuple[str, ...]
) -> None:
    num_refused = 0
    for total in (1, 2, 3, 5, 7, 16, 33, 37, 48, 64, 65, 66, 96, 127, 254, 1009):
        for per_rank in (1, 2, 7, 16, 64, 100):
            batch = [f"batch.global={total}", f"batch.per_rank={per_rank}"]
            given = [*batch, f"method.name={method}", *more]
            try:
                split_batch(load_settings(None, given), world_size)
                continue
            except ConfigError as error:
                message = str(error)
            num_refused += 1
            cure = CURE.search(message)
            assert cure, message
            _, *totals, size = cure.groups()
            cures = [[f"batch.global={t}"] for t in totals if t] or [[]]
            for each in cures:
                cured = [*each, *([f"batch.per_rank={size}"] if size else [])]
                split = split_batch(load_settings(None, [*given, *cured]), world_size)
                perturbed = split.slots // 2 if method == "m-arwp" else split.slots
                assert perturbed >= 2 or "method.antithetic=true" not in more
    assert num_refused > 10 or world_size == 1


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("method", ["sgd", "m-rwp"])
def test_a_micro_batch_is_at_least_half_of_what_fits(world_size: int, method: str) -> None:
    for total in range(2, 300):
        settings = load_settings(None, [f"batch.global={total}", f"method.name={method}"])
        try:
            split = split_batch(settings, world_size)
        except ConfigError:
            continue
        assert 2 * split.size >= min(64, total // world_size)


def test_the_settings_know_the_methods_there_are() -> None:
    assert get_args(MethodName) == tuple(METHODS)


def test_the_known_keys_of_deepspeed_are_those_that_it_looks_up() -> None:
    from deepspeed.runtime import config as deepspeed

    looked_up: set[str] = set()

    class Recorder(dict):  # type: ignore[type-arg]
        def get(self, key: Any, default: Any = None) -> Any:
            looked_up.add(key)
            return super().get(key, default)

        def __getitem__(self, key: Any) -> Any:
            looked_up.add(key)
            return super().__getitem__(key)

        def __contains__(self, key: Any) -> bool:
            looked_up.add(key)
            return super().__contains__(key)

        def keys(self) -> Any:
            return self

    deepspeed.DeepSpeedConfig(Recorder(train_batch_size=4))
    removed = getattr(deepspeed, "_REMOVED_TOP_LEVEL_CONFIG_KEYS", {})
    read_elsewhere = {"data_parallel_size", "sequence_parallel_size"}  # deepspeed.initialize
    assert looked_up - removed.keys() | read_elsewhere == DEEPSPEED_KEYS


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
