"""Times in files."""

import re
import time

import pytest

from rwp_dist.base import clock


def test_a_time_has_milliseconds_and_the_offset_of_utc_and_is_read_back() -> None:
    before = time.time()
    written = clock.now()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", written)
    assert before - 0.001 <= clock.seconds(written) <= time.time()
    assert clock.text(1795998001.123) == "2026-11-30T00:20:01.123+00:00"


def test_times_are_ordered_by_what_they_mean() -> None:
    berlin, london = "2026-11-30T01:20:01.123+01:00", "2026-11-30T00:20:01.123+00:00"
    assert clock.seconds(berlin) == clock.seconds(london) == 1795998001.123
    later = "2026-11-30T00:20:02+00:00"
    assert sorted([later, berlin], key=clock.seconds) == [berlin, later]


@pytest.mark.parametrize("written", [1795998001.5, 1795998001, "2026-11-30T00:20:01Z"])
def test_what_earlier_versions_and_other_programs_write_is_read(written: str | float) -> None:
    assert 1795998001 <= clock.seconds(written) < 1795998002


@pytest.mark.parametrize("written", ["2026-11-30T00:20:01", "yesterday", ""])
def test_what_is_no_moment_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match=r"offset|Invalid isoformat"):
        clock.seconds(written)
