"""What W&B gets of a record."""

import pytest

from rwp_dist.tracking.projection import row_of


@pytest.mark.parametrize("written", ["2026-11-30T01:20:01.123+01:00", 1795998001.123])
def test_wandb_gets_a_records_time_in_seconds_also_of_earlier_versions(written) -> None:
    row = row_of({"kind": "eval", "time": written, "step": 4, "top1": 71.0})
    assert row["_timestamp"] == 1795998001.123
