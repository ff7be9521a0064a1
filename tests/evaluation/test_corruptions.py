"""Corrupted images: the same for every run, the stronger the less like the original."""

import io
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from PIL import Image
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


@pytest.mark.parametrize(
    ("size", "strength", "deviation"), [(224, 1, 1.0), (112, 5, 3.0), (56, 5, 1.5)]
)
def test_blur_has_the_deviation_that_is_stated_at_every_size(size, strength, deviation):
    line, places = np.zeros((size, size, 1), np.uint8), np.arange(size) - size // 2
    line[:, size // 2] = 255
    profile = corrupt("blur", strength, line, 0)[size // 2, :, 0].astype(float)
    variance = (profile * places**2).sum() / profile.sum()
    assert variance == pytest.approx(0.35**2 + deviation**2, rel=0.05)


def test_contrast_is_the_share_that_is_stated_around_the_mean():
    (image,) = images(64, 1, count=1)
    for strength, share in zip(STRENGTHS, (0.85, 0.7, 0.5, 0.35, 0.2), strict=True):
        flat = corrupt("contrast", strength, image, 0)
        assert flat.mean() == pytest.approx(image.mean(), abs=1)
        assert flat.std() == pytest.approx(share * image.std(), rel=0.05)


def test_jpeg_has_the_published_qualities_at_224_pixels_and_better_ones_below():
    ((large,), (small,)) = images(224, 3, count=1), images(56, 3, count=1)
    for strength, quality in zip(STRENGTHS, (25, 18, 15, 10, 7), strict=True):
        assert np.array_equal(corrupt("jpeg", strength, large, 0), compressed(large, quality))
    assert np.array_equal(corrupt("jpeg", 1, small, 0), compressed(small, 50))


def compressed(image, quality):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "jpeg", quality=quality)
    return np.asarray(Image.open(file))


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
