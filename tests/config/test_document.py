"""Settings files from anywhere: bounded, without code, and read as people mean them."""

import os
from pathlib import Path

import pytest
import yaml

from rwp_dist.base.errors import ConfigError, RwpError
from rwp_dist.config import dump_settings, load_settings
from rwp_dist.config.document import MOST_VALUES, dump_document, parse_document, split_list

BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "more than 100,000 values"),
        ("[" * 50_000, "nested too deeply"),
        ("a: " * 3 + "[" * 200 + "]" * 200, "mapping values are not allowed"),
        ("[" * 200 + "]" * 200, "nested too deeply"),
        ("&a [*a]", "nested too deeply"),
        ("&a {b: *a, c: *a}", "nested too deeply"),
        ("a: 1\nb: 2\na: 3", "'a' comes twice, in lines 1 and 3"),
        ("x: {lr: 1, lr: 1}", "'x.lr' comes twice, in line 1"),
        ("x: {lr: 1}\ny: 1\nx: {wd: 1}", "'x' comes twice, in lines 1 and 3"),
        ("variants:\n  a: {b.c: 1}\n  a: {b.d: 1}", "'variants.a' comes twice, in lines 2 and 3"),
        ("b.c: 1\nb:\n  c: 1", "'b.c' comes twice, in lines 1 and 3"),
        ("variants:\n  a:\n    b.c: 1\n    b: {c: 2}", "'variants.a.b.c' comes twice, in lines 3"),
        ("- 1\n- a: 1\n  a: 1", "'a' comes twice, in lines 2 and 3"),
        ("{010: a, 10: b}", "'10' comes twice"),
        ("{<<: {a: 1}, <<: {b: 1}}", "'<<' comes twice"),
        ("!!bool yes", "neither true nor false"),
        ("!!int 0b1", "invalid literal"),
        ("!!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a: !!python/name:os.system", "it has a tag:yaml.org,2002:python/name:os.system"),
        ("a: !!binary gIA=", "it has a tag:yaml.org,2002:binary"),
        ("a: " + "9" * 5000, "4300 digits"),
        ("a: \0", "special characters are not allowed"),
        ("? [a, b]\n: 1", "unhashable"),
    ],
)
def test_what_is_no_plain_bounded_document_is_refused(text: str, message: str) -> None:
    with pytest.raises(yaml.YAMLError, match=message):
        parse_document(text)


def test_what_aliases_stand_for_counts_each_time() -> None:
    line = f"[{', '.join('x' * 300)}]"
    assert len(parse_document(f"[&a {line}, *a, *a]")) == 3
    assert MOST_VALUES < 400 * 300
    with pytest.raises(yaml.YAMLError, match="values"):
        parse_document(f"[&a {line}, {', '.join(['*a'] * 400)}]")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ("-3", -3),
        ("1_000", 1000),
        ("0x1f", 31),
        ("0", 0),
        ("010", 10),
        ("-008", -8),
        ("0o17", 15),
        ("0b11", "0b11"),
        ("1__0", "1__0"),
        ("2024_01_01", "2024_01_01"),
        ("1_000.5", 1000.5),
        ("1e-3", 0.001),
        ("1e3", 1000.0),
        ("12E03", 12000.0),
        ("1.", 1.0),
        (".e3", ".e3"),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("Y", "Y"),
        ("TRUE", True),
        ("False", False),
        ("NULL", None),
        ("nan", "nan"),
        ("1:30", "1:30"),
        ("1:30.5", "1:30.5"),
        ("2024-01-01", "2024-01-01"),
        ("2024-13-45", "2024-13-45"),
        ("=", "="),
        ("1.5", 1.5),
        ("1.0e-3", 0.001),
        (".5", 0.5),
        ("-.inf", float("-inf")),
        ("off", "off"),
        ("~", None),
        ("a:", {"a": None}),
        ("", None),
        ("\ufeffa: 1", {"a": 1}),
        ("{<<: {a: 1}, b: 2}", {"a": 1, "b": 2}),
    ],
)
def test_plain_values_are_what_people_mean(text: str, value: object) -> None:
    assert parse_document(text) == value
    assert parse_document(text.encode()) == value
    assert parse_document(dump_document(value)) == value
    if isinstance(value, str):  # other readers keep the text, too
        assert yaml.safe_load(dump_document(value)) == value


def test_text_that_looks_like_a_number_is_written_in_quotes() -> None:
    for text in ("1e-3", "010", "0o17", "1_000", "~", "", "yes", "1:30", "<<", ".inf", "a: b", "#"):
        assert parse_document(dump_document({"a": [text]})) == {"a": [text]}, text
        assert yaml.safe_load(dump_document({"a": [text]})) == {"a": [text]}, text


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1, 2", ["1", "2"]),
        ("[0.08,1.0],[0.5, 1.0]", ["[0.08,1.0]", "[0.5, 1.0]"]),
        ("{a: [1,2], b: 3},{}", ["{a: [1,2], b: 3}", "{}"]),
        ('\'a,b\',"c]\\",d",e', ["'a,b'", '"c]\\",d"', "e"]),
        ("'it''s, ok',b", ["'it''s, ok'", "b"]),
        ("it's,that's", ["it's", "that's"]),
        ("['x]',y],z", ["['x]',y]", "z"]),
        ("http://me:a@h/t?a=1,s3://h/t", ["http://me:a@h/t?a=1", "s3://h/t"]),
        ("''", ["''"]),
    ],
)
def test_a_list_is_split_where_its_values_end(text: str, values: list[str]) -> None:
    assert split_list(text) == values


@pytest.mark.parametrize("text", ["", " ", "a,,b", "a,", ",a", "[1,2", "1],2", "a]", "{a: 1"])
def test_a_list_without_a_value_or_half_a_bracket_is_refused(text: str) -> None:
    with pytest.raises(yaml.YAMLError, match=r"value is missing|no other half"):
        split_list(text)


def test_the_text_may_be_that_of_windows(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    for encoding in ("utf-8-sig", "utf-16"):
        path.write_bytes("run:\r\n  label: gr\u00fcn\r\n".encode(encoding))
        assert load_settings(path).run.label == "gr\u00fcn"


def test_only_files_of_a_sensible_size_are_settings(tmp_path: Path) -> None:
    path, fifo = tmp_path / "c.yaml", tmp_path / "pipe.yaml"
    os.mkfifo(fifo)
    with path.open("wb") as file:
        file.truncate(10**9)
    for place, why in (
        (path, "it has 1.0 GB, and 262 kB are the most"),
        (fifo, "it is a pipe"),
        (Path("/dev/zero"), "it is a pipe"),
        (tmp_path, "Is a directory"),
        (Path("a\0b"), "no file has such a name"),
    ):
        with pytest.raises(ConfigError, match=rf"cannot be read \({why}"):
            load_settings(place)
    path.write_bytes(b"run: {label: \xff}")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_settings(path)


@pytest.mark.parametrize(
    "text",
    [f"model: {{options: {{x: {'[' * 90}{']' * 90}}}}}", "&a [*a, 1]", "- &a [1]\n- *a", "'x'"],
)
def test_a_refusal_is_short(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    try:
        dump_settings(load_settings(path))
    except RwpError as error:
        assert len(str(error)) < 600


HUGE = (10**12, 10**30, 2**31)


@pytest.mark.parametrize("value", [*HUGE, "9" * 4000, ".inf", ".nan", "-1", "1:30", "1e400"])
def test_numbers_that_no_machine_could_serve_are_refused_one_by_one(
    value: object,
) -> None:
    keys = (
        *("batch.global", "batch.per_rank", "data.image_size", "data.workers", "data.prefetch"),
        *("data.window", "data.lanes", "augment.pad", "augment.cutout", "augment.num_ops"),
        *("schedule.steps", "checkpoint.keep_last", "model.num_classes", "run.threads"),
    )
    for key in keys:
        with pytest.raises(ConfigError, match=rf"{key}: .* is not allowed; it should be") as caught:
            load_settings(None, [f"{key}={value}"])
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize("key", ["schedule.epochs", "data.stall_s", "data.cache_gb"])
def test_a_duration_without_end_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"{key}: .* it should be less than or equal to"):
        load_settings(None, [f"{key}=1.0e+308"])
