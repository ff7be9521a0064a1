"""``huffman.c`` finds the coefficients that libjpeg finds, or leaves the file to others."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageFile

from rwp_dist.data import libjpeg

pytestmark = pytest.mark.skipif(not libjpeg.available(), reason="libjpeg-turbo is optional")

WIDTH, HEIGHT = 75, 50


def picture(kind, seed=0):
    rng = np.random.default_rng(seed)
    if kind == "flat":  # blocks that end at once
        pixels = np.full((HEIGHT, WIDTH, 3), 77)
    elif kind == "noise":  # every place of a block is taken, by long codes
        pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3))
    else:  # a few frequencies with long runs of zeros between them
        y, x = np.mgrid[:HEIGHT, :WIDTH]
        wave = 127 + 60 * np.cos(x * 2.7) * np.cos(y * 2.9) + 60 * (x % 16 == 3)
        pixels = np.stack([wave, wave[::-1], 255 - wave], -1)
    return Image.fromarray(pixels.astype(np.uint8))


def encoded(image, **options):
    buffer = io.BytesIO()
    # Pillow's own buffer is too small for noise at full quality.
    image.save(buffer, "jpeg", bufsize=10 * HEIGHT * WIDTH, **options)
    return buffer.getvalue()


def whole(data):
    return libjpeg.decode_region(data, 3, 0, 0, WIDTH, HEIGHT)


def by_pillow(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("kind", ["flat", "noise", "waves"])
@pytest.mark.parametrize("quality", [3, 60, 91, 100])
@pytest.mark.parametrize(
    "options",
    [
        {"subsampling": "4:4:4"},
        {"subsampling": "4:2:0"},
        {"subsampling": "4:2:0", "optimize": True},
        {"subsampling": "4:2:0", "restart_marker_blocks": 3},
        {"subsampling": "4:1:1"},
        {"progressive": True},
    ],
    ids=str,
)
def test_pixels_are_libjpegs_to_the_last_bit(kind, quality, options):
    data = encoded(picture(kind), quality=quality, **options)
    found = whole(data)
    assert found is not None
    assert np.array_equal(found, by_pillow(data))


def damaged(data, rng):
    """A few bytes of the scan changed."""
    changed = bytearray(data)
    first = data.index(b"\xff\xda") + 14
    for at in rng.integers(first, len(data) - 2, rng.integers(1, 4)):
        changed[at] = rng.choice([0, 0xFF, int(rng.integers(256))])
    return bytes(changed)


@pytest.mark.parametrize("kind", ["flat", "noise", "waves"])
def test_a_damaged_scan_is_refused_or_read_as_libjpeg_reads_it(kind, monkeypatch):
    # Damage below the rows that were asked for is Pillow's to see, not ours.
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    rng = np.random.default_rng(3)
    data = encoded(picture(kind), quality=80)
    read = refused = 0
    for _ in range(400):
        broken = damaged(data, rng)
        height = int(rng.integers(1, HEIGHT + 1))
        found = libjpeg.decode_region(broken, 3, 0, 0, WIDTH, height)
        if found is None:
            refused += 1
        else:
            read += 1
            assert np.array_equal(found, by_pillow(broken)[:height])
    assert read > 20
    assert refused > 20


@pytest.mark.parametrize("left", [1, 2, 9, 40, 200])
def test_a_scan_that_ends_early_is_refused(left):
    data = encoded(picture("noise"), quality=80)
    first = data.index(b"\xff\xda") + 14
    assert whole(data[: first + left] + b"\xff\xd9") is None


def test_a_code_that_no_table_has_is_refused():
    data = encoded(picture("noise"), quality=80)
    at = data.index(b"\xff\xda") + 14 + 9
    # The code of nothing but ones is left free by T.81; the row that is asked for lies above
    # whatever the rest of the scan may decode to.
    assert libjpeg.decode_region(data, 3, 0, 0, WIDTH, 1) is not None
    ones = data[:at] + b"\xff\x00" * 4 + data[at:]
    assert libjpeg.decode_region(ones, 3, 0, 0, WIDTH, 1) is None


def test_files_with_tables_of_their_own_do_not_mix():
    files = [
        encoded(picture(kind, seed), quality=quality, optimize=seed % 2 == 0)
        for seed in range(4)
        for kind in ("noise", "waves")
        for quality in (40, 95)
    ]
    wanted = [by_pillow(data) for data in files]
    with ThreadPoolExecutor(3) as pool:
        for _ in range(5):
            for found, pixels in zip(pool.map(whole, files), wanted, strict=True):
                assert np.array_equal(found, pixels)
