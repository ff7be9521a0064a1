"""The speed of one shard is measured in processes that cannot hang the examination."""

import multiprocessing
import os
import signal
import time

import pytest
from support.stream_sets import CLASSES, flip_bit, load, write_set

from rwp_dist.base.errors import DataError
from rwp_dist.config import load_settings
from rwp_dist.data.image import TrainTransform
from rwp_dist.doctor import speed
from rwp_dist.doctor.speed import images_per_second


class BrokenInWorkers(TrainTransform):
    """Does its work in this process, and ``BREAK`` in every other."""

    def __call__(self, data, key):
        if multiprocessing.parent_process() is not None:
            BREAK[self.num_ops]()
        return super().__call__(data, key)


def fail():
    raise DataError("this image is green")


BREAK = {
    1: lambda: time.sleep(3600),
    2: lambda: os.kill(os.getpid(), signal.SIGKILL),
    3: fail,
}


def settings(folder):
    return load_settings(
        None,
        [
            f"data.train={folder}",
            "data.image_size=16",
            "data.channels=3",
            f"model.num_classes={CLASSES}",
            "augment.crop=random_resized",
        ],
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("set") / "train")


def test_it_is_that_of_its_good_images_and_nothing_is_forked(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fork", None)  # locks that threads of this process hold would stay held
    folder = write_set(tmp_path / "train")
    dataset = load(folder)
    flip_bit(folder, 0, 4, dataset.index)
    found = images_per_second(settings(folder), seconds=0.3)
    assert found["shard"] == dataset.shards[0].url
    assert (found["images"], found["bad"]) == (dataset.counts[0], 1)
    assert found["cores"] == len(os.sched_getaffinity(0))
    # One small image takes 50 µs to some ms.
    assert 100 < found["images_per_s_core"] < 50_000
    assert 0 < found["images_per_s"] < 2 * found["cores"] * found["images_per_s_core"]


def test_a_shard_without_any_good_image(tmp_path):
    folder = write_set(tmp_path / "train", num=5, undecodable=range(5))
    with pytest.raises(DataError, match=r"train-000000\.tar.*; see why: .*verify"):
        images_per_second(settings(folder))


@pytest.mark.parametrize(
    ("number", "limit_s", "seen"),
    [
        (1, 1.0, "did not read a shard within 1 s"),
        (2, 60.0, "was killed"),
        (3, 60.0, "this image is green"),
    ],
)
def test_a_process_that_hangs_or_ends_is_said_and_none_is_left(
    folder, number, limit_s, seen, monkeypatch
):
    broken = BrokenInWorkers(16, "none", flip=False, num_ops=number)
    monkeypatch.setattr(speed, "transform_of", lambda settings: broken)
    with pytest.raises(DataError, match=seen):
        images_per_second(settings(folder), seconds=0.1, limit_s=limit_s)
    for process in multiprocessing.active_children():
        process.join(10)
        assert not process.is_alive()
