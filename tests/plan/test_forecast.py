"""A forecast: what it must say of methods, GPUs, networks and data."""

from dataclasses import replace

import pytest

from rwp_dist.config import Settings, load_settings, split_batch
from rwp_dist.perturb.methods import METHODS
from rwp_dist.plan.forecast import (
    Cluster,
    Forecast,
    buckets_of,
    forecast_methods,
    profile_of,
    step_of,
    with_method,
)
from rwp_dist.plan.hardware import GPUS

FAST = Cluster("h100", GPUS["h100"], 64, 400e9)


def settings(*overrides: str) -> Settings:
    own = ("batch.global=65536", "batch.per_rank=1024", "data.image_size=32", "data.channels=3")
    steps = ("schedule.steps=36000", "run.label=plan", "precision=bf16")
    return load_settings(None, [*own, "data.mean=[0.5]", *steps, *overrides])


def forecasts(cluster: Cluster, *overrides: str) -> dict[str, Forecast]:
    own = settings(*overrides)
    return {one.method: one for one in forecast_methods(own, cluster, profile_of(own))}


def test_every_method_takes_as_many_images() -> None:
    found = forecasts(FAST)
    assert list(found) == list(METHODS)
    assert {one.split.size * one.split.micro_batches * 64 for one in found.values()} == {65536}
    for one in found.values():
        assert one.step_s * one.images_per_s == pytest.approx(65536)


def test_sam_takes_twice_as_long_as_m_rwp_on_a_fast_network_and_less_on_a_slow_one() -> None:
    ratios = []
    for bytes_per_s in (400e9, 1e9, 1e7):
        found = forecasts(replace(FAST, node_bytes_per_s=bytes_per_s))
        ratios.append(found["sam"].step_s / found["m-rwp"].step_s)
    assert ratios == sorted(ratios, reverse=True)
    assert 1.8 < ratios[0] < 2.0
    assert ratios[-1] < 1.1
    assert found["m-rwp"].step_s == pytest.approx(found["sgd"].step_s, rel=0.02)
    assert {one.bound_by for one in found.values()} == {"network"}


def test_a_node_that_reads_too_little_bounds_the_step() -> None:
    fed = forecasts(replace(FAST, node_images_per_s=1000.0))
    assert {one.bound_by for one in fed.values()} == {"data"}
    assert [one.images_per_s for one in fed.values()] == pytest.approx([8000] * len(fed))
    enough = forecasts(replace(FAST, node_images_per_s=1e9))
    assert enough["sgd"].step_s == forecasts(FAST)["sgd"].step_s


def test_hours_are_those_of_all_steps_and_unknown_without_data() -> None:
    found = forecasts(FAST)["sgd"]
    assert found.hours == pytest.approx(10 * found.step_s)
    assert forecasts(FAST, "schedule.steps=null", "data.train=nowhere")["sgd"].hours is None


def test_few_images_are_bound_by_the_host() -> None:
    found = forecasts(FAST, "batch.global=64")["sgd"]
    assert found.bound_by == "host"
    assert found.step_s == pytest.approx(forecasts(FAST, "batch.global=128")["sgd"].step_s)


def test_zero_gathers_weights_and_deepspeed_costs_time() -> None:
    ddp, zero = (forecasts(FAST, f"deepspeed.zero_stage={stage}")["sgd"] for stage in (0, 1))
    assert (ddp.engine, zero.engine) == ("DDP", "DeepSpeed at stage 1")
    assert zero.step.wait_s > ddp.step.wait_s
    assert zero.step.compute_s > ddp.step.compute_s
    assert zero.memory_bytes != ddp.memory_bytes


def test_deepspeed_hides_reductions_only_if_it_is_told_to() -> None:
    zero = ("model.name=resnet18", "batch.global=4096", "deepspeed.zero_stage=1")
    after, beside = (
        forecasts(replace(FAST, node_bytes_per_s=1e10), *zero, f"deepspeed.overlap_comm={x}")["sgd"]
        for x in ("false", "true")
    )
    assert after.step.compute_s == beside.step.compute_s
    assert after.step.wait_s > 1.2 * beside.step.wait_s


def test_shards_of_gradients_are_reduced_after_every_pass() -> None:
    slow = replace(FAST, node_bytes_per_s=1e8)
    waits = [
        forecasts(slow, f"deepspeed.zero_stage={stage}", "batch.per_rank=256")["sgd"].step.wait_s
        for stage in (1, 2)
    ]
    assert 2 < waits[1] / waits[0] < 4  # four reductions, and weights gathered once


def test_the_full_node_is_what_bounds_reading() -> None:
    """Nine GPUs: eight of them in one node."""
    cluster = replace(FAST, num_gpus=9, node_images_per_s=900.0)
    found = forecasts(cluster, "batch.global=9216")["sgd"]
    assert found.bound_by == "data"
    assert found.images_per_s == pytest.approx(900 * 9 / 8)


def test_what_does_not_fit_has_no_hours() -> None:
    small = replace(FAST, gpu=replace(GPUS["h100"], memory_bytes=1e8))
    found = forecasts(small)["sgd"]
    assert not found.fits and found.hours is None and found.bound_by == "memory"


def test_hours_follow_from_the_number_of_images_where_data_are_not_here() -> None:
    own = ("schedule.steps=null", "schedule.epochs=3", "data.train=nowhere")
    found = forecasts(replace(FAST, epoch_images=65536 * 5 + 7), *own)["sgd"]
    assert found.steps == 15


def test_stage_3_has_no_methods_that_need_whole_weights() -> None:
    found = forecasts(FAST, "deepspeed.zero_stage=3", "batch.per_rank=512")
    assert set(found) == {"sgd", "rwp", "arwp", "m-rwp", "m-arwp"}


def test_a_given_mfu_replaces_what_the_memory_allows_and_fp32_takes_twice_as_long() -> None:
    assert replace(FAST, mfu=0.5).flops_per_s("bf16") == pytest.approx(0.5 * 989e12)
    assert FAST.flops_per_s("bf16") == 2 * FAST.flops_per_s("fp32")


def test_bf16_reduces_half_the_bytes() -> None:
    profile = profile_of(settings())
    full, half = (
        sum(b.num_bytes for b in buckets_of(settings(f"engine.reduce_dtype={dtype}"), profile))
        for dtype in ("fp32", "bf16")
    )
    assert full == 2 * half == 4 * sum(elements for elements, _ in profile.gradients)


@pytest.mark.parametrize(("name", "measured_s"), [("resnet50", 0.0559), ("vit_s_16", 0.0553)])
def test_one_h200_takes_what_was_measured(name: str, measured_s: float) -> None:
    """docs/performance.md, the rows "DDP sgd"."""
    own = settings(
        f"model.name={name}",
        "model.num_classes=1000",
        "data.image_size=224",
        *("batch.global=256", "batch.per_rank=256", "engine.name=ddp"),
    )
    own = with_method(own, "sgd")
    cluster = Cluster("h200", GPUS["h200"], 1, 50e9)
    step = step_of(own, split_batch(own, 1), cluster, profile_of(own))
    assert step.total_s == pytest.approx(measured_s, rel=0.12)
    assert step.wait_s == step.straggle_s == 0
