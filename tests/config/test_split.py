"""How a batch is split over ranks and micro-batches."""

import re

import pytest

from rwp_dist.base.errors import ConfigError
from rwp_dist.config import load_settings, split_batch


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
    ("overrides", "world_size", "key", "cure"),
    [
        (["batch.global=64"], 3, "batch.global", "set batch.global to 63 or 66"),
        (["batch.global=1"], 1, "batch.global", "set batch.global to 2"),
        (["batch.global=254"], 2, "batch.global", "set batch.global to 252 or 256"),
        (["batch.global=65"], 1, "batch.global", "set batch.global to 64 or 66"),
        (["batch.global=3"], 1, "batch.global", "set batch.global to 2 or 4"),
        (["method.antithetic=true"], 2, "method.antithetic", "set batch.per_rank to 16"),
        (
            ["method.antithetic=true", "batch.global=66"],
            3,
            "method.antithetic",
            "set batch.per_rank to 11",
        ),
        (
            ["method.antithetic=true", "batch.global=254"],
            2,
            "batch.global",
            "set batch.global to 252 or 256",
        ),
        (
            ["method.antithetic=true", "method.name=rwp"],
            1,
            "method.antithetic",
            "set batch.per_rank to 32",
        ),
        (
            ["method.antithetic=true", "method.name=arwp", "batch.global=1"],
            1,
            "method.antithetic",
            "set batch.global to 2 and batch.per_rank to 1",
        ),
        (
            ["deepspeed.zero_stage=3", "method.name=m-rwp"],
            2,
            "deepspeed.zero_stage",
            "set deepspeed.zero_stage to 2, or set batch.per_rank to 16",
        ),
    ],
)
def test_a_batch_that_ranks_cannot_share_is_refused_with_the_cure(
    overrides: list[str], world_size: int, key: str, cure: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        split_batch(load_settings(None, overrides), world_size)
    assert (caught.value.key, caught.value.cure) == (key, cure)


CURE = re.compile(
    r"set (?:batch.global to (\d+)(?: or (\d+))?)?(?: and )?(?:batch.per_rank to (\d+))?$"
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
def test_every_cure_of_a_refused_batch_works(
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
                cure = CURE.search(str(error.cure))
                assert cure, error
            num_refused += 1
            *totals, size = cure.groups()
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
