import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from support.shard_files import files, keys, load

from rwp_dist.base.errors import ConfigError
from rwp_dist.shards.digits import write_digits


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The default digits with three folds: their folder and the report."""
    out = tmp_path_factory.mktemp("digits")
    return out, write_digits(out, folds=3)


def true_labels(images):
    """Labels that scikit-learn gives these images."""
    bunch = load_digits()
    known = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    table = {image.tobytes(): label for image, label in zip(known, bunch.target, strict=True)}
    return np.array([table[image.tobytes()] for image in images])


def test_training_and_test_images_are_the_whole_set_without_overlap(written):
    out, report = written
    train, _ = load(out / "train")
    test, _ = load(out / "test")
    assert (report.num_train, report.num_test) == (len(train), len(test)) == (1000, 797)
    written = sorted(image.tobytes() for image in np.concatenate([train, test]))
    bunch = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)
    assert written == sorted(image.tobytes() for image in bunch)
    assert train.max() == 255 and train.min() == 0


def test_only_training_labels_are_noisy_and_a_tenth_of_the_noise_is_right(written):
    out, report = written
    images, labels = load(out / "train")
    assert report.num_noisy == 400
    wrong = labels != true_labels(images)
    assert wrong.sum() == 355  # the figure in the docstring
    # wrong labels are spread over the set and over the classes, not put in front
    assert all(20 < part.sum() < 50 for part in np.array_split(wrong, 10))
    assert np.bincount(labels[wrong], minlength=10).min() > 20
    images, labels = load(out / "test")
    assert np.array_equal(labels, true_labels(images))


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_label_noise_leaves_the_split_alone(tmp_path, written, noise):
    report = write_digits(tmp_path, label_noise=noise)
    images, labels = load(tmp_path / "train")
    assert np.array_equal(images, load(written[0] / "train")[0])
    assert report.num_noisy == noise * 1000
    assert (labels != true_labels(images)).sum() <= report.num_noisy


def test_the_same_arguments_give_the_same_bytes_and_another_seed_others(tmp_path, written):
    out, _ = written
    write_digits(tmp_path / "again", folds=3)
    write_digits(tmp_path / "other", seed=1)
    first, other = files(out), files(tmp_path / "other")
    assert first == files(tmp_path / "again")
    assert all(first[name] != other[name] for name in other)
    tars = [os.path.relpath(path, out) for path in out.rglob("digits-*.tar")]
    assert len(tars) == 4 * 8
    indexes = [f"{tar}.index.npy" for tar in tars]
    names = ("manifest.json", "samples.index")
    folders = {str(Path(tar).with_name(name)) for tar in tars for name in names}
    assert sorted(first) == sorted([*tars, *indexes, *folders])


def test_keys_number_the_samples_in_order(written):
    out, _ = written
    assert keys(out / "train") == [f"train-{i:06d}" for i in range(1000)]
    assert keys(out / "test") == [f"test-{i:06d}" for i in range(797)]


def test_folds_cut_the_noisy_training_side_and_never_see_a_test_image(written):
    out, _ = written
    whole, labels = load(out / "train")
    values = []
    for fold in range(3):
        train, val = (keys(out / f"fold{fold}" / side) for side in ("train", "val"))
        assert sorted(train + val) == [f"train-{i:06d}" for i in range(1000)]
        for side, names in (("train", train), ("val", val)):
            rows = [int(name.split("-")[1]) for name in names]
            images, noisy = load(out / f"fold{fold}" / side)
            assert np.array_equal(images, whole[rows])
            assert np.array_equal(noisy, labels[rows])
        values += val
    assert sorted(values) == [f"train-{i:06d}" for i in range(1000)]


def test_shards_of_an_earlier_call_do_not_stay_beside_new_ones(tmp_path):
    write_digits(tmp_path)
    written = sorted(tmp_path.rglob("*.tar"))
    for end in ("", ".index.npy"):
        old = tmp_path / "train" / f"digits-train-000000.tar{end}"
        shutil.copy(old, old.with_name(f"digits-train-000004.tar{end}"))
    other = tmp_path / "train" / "notes.txt"
    other.write_text("mine")
    write_digits(tmp_path, seed=1)
    assert sorted(tmp_path.rglob("*.tar")) == written
    assert len(list(tmp_path.rglob("*.npy"))) == len(written)
    assert len(load(tmp_path / "train")[1]) == 1000
    assert other.exists()


@pytest.mark.parametrize(
    ("argument", "value", "cure"),
    [
        ("label_noise", 40, "give 0 to 1"),
        ("label_noise", float("nan"), "give 0 to 1"),
        ("folds", 1, "give 2 to 250, or 0"),
        ("folds", 251, "give 2 to 250, or 0"),
    ],
)
def test_arguments_out_of_range_are_refused_before_anything_is_written(
    tmp_path, argument, value, cure
):
    with pytest.raises(ConfigError) as refused:
        write_digits(tmp_path / "out", **{argument: value})
    assert (refused.value.key, refused.value.cure) == (argument, cure)
    assert not (tmp_path / "out").exists()
