"""What is seen of an image: the C code's pixels are those of torch's resize, for any sizes."""

import ctypes
import subprocess

import numpy as np
import pytest
import torch
from support.pictures import encoded, picture
from support.tiers import TIERS

from rwp_dist.data.image.decode import Decoder
from rwp_dist.data.image.jpeg import libjpeg
from rwp_dist.data.image.regions import Region
from rwp_dist.data.image.tiers import crop
from rwp_dist.data.image.view import View, fitted, show

WIDTH, HEIGHT = 313, 200
needs_libjpeg = pytest.mark.skipif("libjpeg" not in TIERS, reason="libjpeg-turbo is optional")


@pytest.fixture(scope="module")
def data():
    return encoded(picture(HEIGHT, WIDTH), quality=92, subsampling="4:2:0")


def some_views(rng, count):
    """Views of random regions: tall, wide, tiny, enlarged and shrunk."""

    def part(most):
        length = 1 + rng.integers(min(rng.choice([3, most]), most))
        return rng.integers(most - length + 1), length

    for _ in range(count):
        (left, width), (top, height) = part(WIDTH), part(HEIGHT)
        to_width, to_height = 1 + rng.integers(rng.choice([5, 64, 400], 2))
        (x, out_width), (y, out_height) = part(to_width), part(to_height)
        region = Region(*map(int, (left, top, width, height)))
        mirrored = bool(rng.integers(2))
        view = View(region, *map(int, (to_width, to_height, x, y)), mirrored)
        yield view, int(out_height), int(out_width)


def shown(whole, view, shape):
    out = np.empty(shape, np.uint8)
    show(crop(whole, view.region), view, out, antialias=True)
    return out


def test_a_view_is_a_part_of_torchs_resized_region(data):
    """By definition, written down once more."""
    whole = np.array(Decoder("pil").decode(data))
    for view, height, width in some_views(np.random.default_rng(0), 30):
        planes = torch.from_numpy(crop(whole, view.region).copy()).permute(2, 0, 1)[None]
        size = view.height, view.width
        resized = torch.nn.functional.interpolate(planes, size, mode="bilinear", antialias=True)
        expected = resized[0].permute(1, 2, 0).numpy()
        expected = expected[view.top : view.top + height, view.left : view.left + width]
        found = shown(whole, view, (height, width, 3))
        assert np.array_equal(found, expected[:, ::-1] if view.mirrored else expected), view


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_tier_shows_the_same(tier, channels, data):
    decoder, whole = Decoder(tier, channels), Decoder("pil", channels).decode(data)
    for view, height, width in some_views(np.random.default_rng(1), 40):
        out = np.empty((height, width, channels), np.uint8)
        decoder.decode_view(data, lambda w, h, view=view: view, out)
        assert np.array_equal(out, shown(whole, view, out.shape)), view


@needs_libjpeg
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_of_c_are_those_of_torch_for_any_sizes(channels, data):
    whole = Decoder("libjpeg", channels).decode(data)
    for view, height, width in some_views(np.random.default_rng(2), 500):
        out = np.empty((height, width, channels), np.uint8)
        assert libjpeg.decode_view(data, view, out)
        assert np.array_equal(out, shown(whole, view, out.shape)), view


@needs_libjpeg
def test_every_length_is_resized_as_by_torch(data):
    """All weights of all lengths of a row and a column, to the size that training uses."""
    whole = Decoder("libjpeg").decode(data)
    out = np.empty((224, 224, 3), np.uint8)
    for length in range(1, WIDTH + 1):
        view = View(Region(0, 0, length, min(length, HEIGHT)), 224, 224)
        assert libjpeg.decode_view(data, view, out)
        assert np.array_equal(out, shown(whole, view, out.shape)), view


@needs_libjpeg
def test_pixels_do_not_depend_on_the_processor(tmp_path, data):
    path = tmp_path / "plain.so"
    options = [*libjpeg.LIBRARY.options, "-DRESIZE_PLAIN"]
    files, libraries = libjpeg.LIBRARY.files, libjpeg.LIBRARY.libraries
    command = ["cc", "-shared", "-fPIC", *options, *files, "-o", path, *libraries]
    subprocess.run(command, check=True)
    plain, compiled = ctypes.CDLL(str(path)), libjpeg.library()
    plain.decode_view.argtypes = compiled.decode_view.argtypes
    for view, height, width in some_views(np.random.default_rng(3), 200):
        images = [np.zeros((height, width, 3), np.uint8) for _ in range(2)]
        for library, out in zip((plain, compiled), images, strict=True):
            place = *view.region, *view[1:5], width, height, view.mirrored, out.ctypes.data
            assert library.decode_view(data, len(data), 3, *place) == 0
        assert np.array_equal(*images), view


@needs_libjpeg
def test_a_view_of_what_is_not_there_or_damaged_is_refused(data):
    out = np.empty((9, 9, 3), np.uint8)
    for region in (Region(0, 0, WIDTH + 1, 9), Region(0, HEIGHT, 9, 1)):
        assert not libjpeg.decode_view(data, View(region, 9, 9), out)
    assert not libjpeg.decode_view(data[:-40], View(Region(0, 0, WIDTH, HEIGHT), 9, 9), out)


def test_a_region_outside_is_refused_by_every_tier(data):
    view = View(Region(0, 0, WIDTH + 1, 9), 9, 9)
    for tier in TIERS:
        with pytest.raises(ValueError, match="is not inside an image of 313x200"):
            Decoder(tier).decode_view(data, lambda w, h: view, np.empty((9, 9, 3), np.uint8))


@pytest.mark.parametrize(("width", "height"), [(57, 40), (40, 57), (41, 41), (9, 200)])
def test_a_fitted_view_is_the_centre(width, height):
    view = fitted(width, height, 20, 16)
    assert view.region == (0, 0, width, height)
    assert min(view.width, view.height) == 20
    assert view.left == round((view.width - 16) / 2)
    assert view.top == round((view.height - 16) / 2)
