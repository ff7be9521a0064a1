"""What ZeRO's stages mean for those who do not know them."""

from rwp_dist.config import load_settings
from rwp_dist.engine.sharding import hands_out_flat_shards, needs_copy, shares_weights

STAGES = [load_settings(None, [f"deepspeed.zero_stage={stage}"]) for stage in range(4)]


def test_only_stage_3_shares_weights() -> None:
    assert [shares_weights(settings) for settings in STAGES] == [False, False, False, True]


def test_the_optimizer_gets_whole_parameters_at_stage_0_only() -> None:
    assert [hands_out_flat_shards(settings) for settings in STAGES] == [False, True, True, True]


def test_a_copy_is_needed_where_no_step_restores_in_time() -> None:
    assert [needs_copy(settings, 1) for settings in STAGES] == [True, False, False, False]
    assert [needs_copy(settings, 2) for settings in STAGES] == [True, True, True, False]
