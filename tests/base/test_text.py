import pytest

from rwp_dist.base.text import (
    DASH,
    count,
    duration,
    percent,
    plural,
    size,
    table,
    visible,
    whole,
    width,
)


@pytest.mark.parametrize(
    "seconds, text",
    [
        (85e-6, "85 µs"),
        (0.0042, "4.2 ms"),
        (0.9996, "1.0 s"),
        (9.96, "10 s"),
        (119.6, "2 min"),
        (7199, "2 h 00 min"),
        (7201, "2 h 00 min"),
        (48 * 3600, "2 d 00 h"),
        (None, DASH),
    ],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    "num_bytes, text",
    [(999, "999 B"), (1000, "1.0 kB"), (812e6, "812 MB"), (31.4e9, "31.4 GB"), (None, DASH)],
)
def test_size(num_bytes: float | None, text: str) -> None:
    assert size(num_bytes) == text


def test_numbers() -> None:
    assert [count(99.9), count(99.96), count(1234.5)] == ["99.9", "100", "1,234"]
    assert [whole(3.2), whole(1234)] == ["3", "1,234"]
    assert percent(0.125) == "12.5 %"
    assert [count(None), whole(None), percent(None)] == [DASH] * 3
    assert [plural(0, "shard"), plural(1, "shard"), plural(1200, "shard")] == [
        "0 shards",
        "1 shard",
        "1,200 shards",
    ]


def test_table() -> None:
    assert table([["run", "top-1"], ["a", "9"], ["long", "10.5"]], num_left=1) == [
        "run   top-1",
        "----  -----",
        "a         9",
        "long   10.5",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "m-rwp, σ=0.1",
        "数据\u3000集",
        "été",
        "e\u0301te\u0301",
        "نمونه\u200cها",
        "👩\u200d🚀 $_^\\|*",
    ],
)
def test_what_can_be_seen_is_shown_as_it_is(text: str) -> None:
    assert visible(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\u200bb \u202eend\ufeff", r"a\u200bb \u202eend\ufeff"),
        ("a\u200db", r"a\u200db"),  # no joiner between Latin letters
        ("a\xa0b\u2028", r"a\xa0b\u2028"),
        ("half \udcff", r"half \udcff"),
    ],
)
def test_what_cannot_be_seen_is_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize(
    ("text", "columns"),
    [("été", 3), ("e\u0301te\u0301", 3), ("数据", 4), ("👩\u200d🚀", 2), ("👍🏽", 2), ("שלום", 4)],
)
def test_width_is_that_of_a_terminal(text: str, columns: int) -> None:
    assert width(text) == columns


def test_columns_are_aligned_in_any_script() -> None:
    lines = table([["name", "n"], ["数据", "1"], ["e\u0301", "2"], ["שלום", "3"]], num_left=1)
    assert lines == ["name  n", "----  -", "数据  1", "e\u0301     2", "שלום\u200e  3"]
