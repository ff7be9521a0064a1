"""Corrupted images: the same for every run, the stronger the less like the original."""

import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from support.pictures import picture
from support.stream_sets import eval_streams, joined, load, write_set

from rwp_dist.evaluation.corruptions import CORRUPTIONS, STRENGTHS, corrupt

EVERY_KIND = pytest.mark.parametrize("kind", CORRUPTIONS)


def images(size, channels, count=8):
    for seed in range(count):
        array = np.asarray(picture(size, size, channels, seed))
        yield array.reshape(size, size, channels)


@EVERY_KIND
@pytest.mark.parametrize(("size", "channels"), [(8, 1), (28, 1), (32, 3), (224, 3)])
def test_the_stronger_the_less_like_the_original(kind, size, channels):
    distances = np.zeros(len(STRENGTHS))
    for sample, image in enumerate(images(size, channels)):
        before = image.copy()
        for place, strength in enumerate(STRENGTHS):
            changed = corrupt(kind, strength, image, sample)
            assert (changed.shape, changed.dtype) == (image.shape, np.uint8)
            distances[place] += np.square(changed.astype(float) - image).mean()
        assert np.array_equal(image, before)
    assert distances[0] > 0 and (np.diff(distances) > 0).all()


def test_noise_has_the_deviation_that_is_stated_at_every_size():
    for size in (28, 224):
        grey = np.full((size, size, 3), 128, np.uint8)
        deviation = np.std(corrupt("noise", 1, grey, 0) / 255)
        assert deviation == pytest.approx(0.08 * (size / 224) ** 0.5, rel=0.05)


def test_noise_differs_between_samples_and_strengths():
    (image,) = images(28, 1, count=1)
    noisy = [corrupt("noise", strength, image, 7).astype(float) - image for strength in (1, 2)]
    other = corrupt("noise", 1, image, 8).astype(float) - image
    for pair in ((noisy[0], other), noisy):
        assert abs(np.corrcoef(pair[0].flat, pair[1].flat)[0, 1]) < 0.15


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return load(write_set(tmp_path_factory.mktemp("set") / "val", num=30))


def seen(dataset, change, *split, **options):
    """All images of an evaluation in their order, over all ranks."""
    streams = [
        replace(stream, transform=replace(stream.transform, change=change))
        for stream in eval_streams(dataset, *split, **options)
    ]
    parts = [joined(steps) for steps in zip(*(s.steps() for s in streams), strict=True)]
    pixels, _, weights = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return pixels[weights > 0]


@EVERY_KIND
def test_batches_ranks_and_workers_do_not_change_the_images(kind, dataset):
    change = partial(corrupt, kind, 3)
    alone = seen(dataset, change, 1, batch=4)
    assert len(alone) == 30 and not np.array_equal(alone, seen(dataset, None))
    for split in ({"batch": 7}, {"world_size": 2}, {"world_size": 2, "batch": 5, "workers": 1}):
        assert np.array_equal(alone, seen(dataset, change, **split))


def test_names_are_known_without_torch():
    code = "import sys, rwp_dist.evaluation.asked; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
