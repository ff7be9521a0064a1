"""Time limits, as Slurm takes them."""

import pytest

from launcher.limit import limit_seconds, save_seconds
from rwp_dist.base.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 1_800),
        ("30:15", 1_815),
        ("24:00:00", 86_400),
        ("100:00:00", 360_000),
        ("2-12", 216_000),
        ("2-12:30", 217_800),
        ("2-12:30:05", 217_805),
        ("UNLIMITED", None),
        ("infinite", None),
    ],
)
def test_every_form_of_slurm_is_understood(text: str, seconds: int | None) -> None:
    assert limit_seconds(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "00:00",
        "0-0",
        "1h",
        "24h",
        "1:2:3:4",
        "2-",
        "-5",
        "1.5",
        "tomorrow",
        "1-2:3:4:5",
        "٣",
    ],
)
def test_anything_else_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        limit_seconds(text)
    assert error.value.key == "--time" and "days-hours:minutes" in str(error.value.cure)


def test_ranks_save_ten_minutes_before_a_limit_or_a_quarter_of_a_short_one() -> None:
    assert [save_seconds(s) for s in (86_400, 2_400, 2_399, 60, 1)] == [600, 600, 599, 15, 1]
