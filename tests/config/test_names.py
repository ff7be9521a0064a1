"""Names of runs: short, safe, different for different points, and of nothing but the run itself."""

import re

import pytest

from rwp_dist.config.names import MOST_NAME, folder_name, point_name, wandb_group


def folder(*point: tuple[str, str], label: str = "rwp", seed: int = 0) -> str:
    return folder_name(point_name(label, point), f"-s{seed}")


def value(text: str) -> str:
    """How a value appears in a folder's name."""
    return folder(("optimizer.lr", text)).removeprefix("rwp-lr=").removesuffix("-s0")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("0.1", "0.1"),
        ("1e-3", "1e-3"),
        ("-1", "-1"),
        ("'0.1'", "0.1"),
        ("[0.08, 1.0]", "0.08,1.0"),
        ("[true, 'a', null]", "true,a,null"),
        ("- a\n- 1", "a,1"),
        ("null", "null"),
        ("~", "null"),
        ("resnet18", "resnet18"),
    ],
)
def test_a_plain_value_is_in_the_name_as_it_is(text: str, name: str) -> None:
    assert value(text) == name


@pytest.mark.parametrize(
    ("text", "begin"),
    [
        ("/data/a/train", "train"),
        ("data/train/", "train"),
        ("~/train", "train"),
        ("s3://bucket/train", "train"),
        ("a b", "a_b"),
        ("it's", "it_s"),
        ("'a=b'", "a_b"),
        ("[[1], 2]", "1_,_2"),
        ("{a: 1}", "a__1"),
        ("ReLU", "ReLU"),
        ("''", ""),
        ("x" * 100, "x" * 31),
        ("\u00e9" * 100, "\u00e9" * 15),
    ],
)
def test_a_digest_follows_a_value_that_is_not_as_it_stands(text: str, begin: str) -> None:
    assert re.fullmatch(re.escape(begin) + "-[0-9a-f]{8}", value(text))


def test_values_that_look_alike_have_different_folders_on_every_disk() -> None:
    values = ["/a/t", "/b/t", "t", "T", "s3://t", "a b", "a_b", "'a/b'", "a'b", "[a,b]", "{a: b}"]
    found = [folder(("data.train", text)).casefold() for text in (*values, "x" * 99, "x" * 98)]
    assert len({*found}) == len(found)


def test_secrets_of_addresses_are_in_no_name() -> None:
    plain = value("http://h/t")
    assert value("http://me:secret@h/t") == value("http://h/t?sig=secret") == plain


def test_a_key_is_named_by_its_last_part_where_no_other_ends_with_it() -> None:
    assert folder(("batch.global", "8")) == "rwp-global=8-s0"
    assert folder(("optimizer.name", "adamw")) == "rwp-optimizer.name=adamw-s0"
    assert folder(("model.options.width", "8")) == "rwp-width=8-s0"
    assert folder(("method.warmup_steps", "8")) == "rwp-method.warmup_steps=8-s0"
    assert folder(("method.name", "rwp")) == "rwp-s0"  # it is the label


@pytest.mark.parametrize(
    "label", ["x" * 300, "\u00e9" * 300, "a/b 'c' [d]:%j", "../x", "-x", "...", "a\nb"]
)
def test_every_folder_is_one_short_safe_word(label: str) -> None:
    points = [
        [(f"optimizer.{k}", f"/{v}/{'y' * 90}") for k in ("lr", "eps", "betas")] for v in "ab"
    ]
    names = [folder(*point, label=label, seed=2**62) for point in (*points, [])]
    assert len({*names}) == 3
    for name in names:
        assert len(name.encode()) <= MOST_NAME and name.endswith(f"-s{2**62}")
        assert re.fullmatch(r"[\w+=@][\w.,+=@-]*", name)


def test_labels_keep_their_words() -> None:
    assert folder(label="sgd 2x") == "sgd_2x-s0"
    assert folder(label="SGD") == "SGD-s0"
    assert folder(label="a/b") != folder(label="a_b")


def test_a_wandb_group_has_at_most_128_bytes() -> None:
    assert wandb_group("x" * 128) == "x" * 128
    assert len(wandb_group("x" * 129)) == 128 and wandb_group("x" * 129) != wandb_group("x" * 130)
