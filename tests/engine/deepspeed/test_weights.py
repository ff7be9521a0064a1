"""What the engine asks of DeepSpeed's configuration under ZeRO."""

import pytest
from support.ranks import run_ranks
from support.small import small_parts, small_settings

from rwp_dist.base.errors import ConfigError
from rwp_dist.config import load_settings
from rwp_dist.engine.deepspeed.config import check_energy_buckets

SMALL = "deepspeed.extra={zero_optimization: {reduce_bucket_size: 1000}}"
SCATTERED = "deepspeed.extra={zero_optimization: {contiguous_gradients: false}}"


@pytest.mark.parametrize("extra", [SMALL, SCATTERED])
def test_buckets_in_which_collected_gradients_would_change_are_refused(extra):
    with pytest.raises(ConfigError, match="reduce_bucket_size of 2,097,152 or more") as caught:
        check_energy_buckets(load_settings(None, [extra]), 2**23)
    assert caught.value.key == "deepspeed.extra.zero_optimization"
    assert "noise.backend to torch" in caught.value.cure


def test_large_ones_and_those_of_deepspeed_itself_are_taken():
    large = "deepspeed.extra={zero_optimization: {reduce_bucket_size: 500000000}}"
    for settings in ([large], []):
        check_energy_buckets(load_settings(None, settings), 2**23)


def build(overrides):
    with small_parts(small_settings("deepspeed.zero_stage=1", *overrides)) as parts:
        return parts.perturbed.backend


def test_they_matter_where_the_kernels_collect_gradients_only():
    triton = "noise.backend=triton"
    with pytest.raises(ConfigError, match="reduce_bucket_size"):
        run_ranks(build, 1, ("method.name=arwp", triton, SMALL))
    assert run_ranks(build, 1, ("method.name=rwp", triton, SMALL)) == ["triton"]
    assert run_ranks(build, 1, ("method.name=arwp", "noise.backend=torch", SMALL)) == ["torch"]
