"""The table of GPUs, and rates as people write them."""

import pytest

from rwp_dist.base.errors import ConfigError
from rwp_dist.plan.hardware import GPUS, LINK_SHARE, fabric_of, gpu_of, rate_of
from rwp_dist.run.flops import PEAK_TFLOPS


def test_every_gpu_has_a_peak() -> None:
    assert {gpu.cuda_name for gpu in GPUS.values()} <= set(PEAK_TFLOPS)


@pytest.mark.parametrize(
    ("text", "bytes_per_s"),
    [("400Gbit", 5e10), ("100 gbit/s", 1.25e10), ("2.5Gbit", 3.125e8), ("1.6Tbit", 2e11)],
)
def test_rates_are_bytes_per_second(text: str, bytes_per_s: float) -> None:
    assert rate_of(text) == pytest.approx(bytes_per_s)


@pytest.mark.parametrize("text", ["400", "400GB", "0Gbit", "fast", ""])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="400Gbit"):
        rate_of(text)


def test_an_unknown_gpu_is_refused_with_the_list() -> None:
    with pytest.raises(ConfigError, match="a100, h100, h200"):
        gpu_of("tpu")
    assert gpu_of("H100") is GPUS["h100"]


def test_a_fabric_reaches_its_share_of_both_links() -> None:
    fabric = fabric_of(GPUS["h100"], 5e10)
    assert fabric.inside.bytes_per_s == LINK_SHARE * 450e9
    assert fabric.between.bytes_per_s == LINK_SHARE * 5e10
    assert fabric_of(GPUS["l4"], 5e10).inside.latency_s > fabric.inside.latency_s
