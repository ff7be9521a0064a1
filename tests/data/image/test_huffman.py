"""``huffman.c`` finds the coefficients that libjpeg finds, or leaves the file to others."""

import io
import subprocess
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageFile

from rwp_dist.data.image.jpeg import libjpeg
from rwp_dist.data.image.tiers import why_unusable

pytestmark = pytest.mark.skipif(
    why_unusable("libjpeg") is not None, reason="libjpeg-turbo is optional"
)

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


def without_codes(data):
    """The same file with Huffman tables that have no code."""
    out, at, marker = data[:2], 2, 0
    while marker != 0xDA:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        segment = data[at + 4 : at + 2 + length]
        if marker == 0xC4:
            tables, place = b"", 0
            while place < len(segment):
                tables += segment[place : place + 1] + bytes(16)
                place += 17 + sum(segment[place + 1 : place + 17])
            segment = tables
        out += bytes([0xFF, marker]) + (len(segment) + 2).to_bytes(2, "big") + segment
        at += 2 + length
    return out + bytes(4000) + b"\xff\xd9"


def test_tables_without_codes_are_refused_whatever_was_decoded_before():
    data = without_codes(encoded(picture("waves")))
    for before in (None, encoded(picture("waves"))):
        with ThreadPoolExecutor(1) as pool:  # a thread that has kept no tables yet
            if before is not None:
                assert pool.submit(whole, before).result() is not None
            assert pool.submit(libjpeg.decode_region, data, 3, 0, 0, WIDTH, 8).result() is None


LOSSLESS = """
#include <stdio.h>
#include "huffman.h"
/* As libjpeg-turbo 3 leaves a lossless file: a predictor, no AC table, an entropy decoder. */
int main(void) {
    struct jpeg_decompress_struct info = {0};
    struct jpeg_error_mgr errors;
    jpeg_component_info component = {.h_samp_factor = 1};
    JHUFF_TBL dc = {.bits = {0, 1}};
    struct jpeg_source_mgr source = {0};
    void *before[8] = {0};
    info.err = jpeg_std_error(&errors);
    jpeg_create_decompress(&info);
    info.global_state = 205; /* between start and finish: libjpeg answers no questions before */
    info.src = &source;
    info.entropy = (void *)before;
    info.data_precision = 8;
    info.comps_in_scan = 1;
    info.cur_comp_info[0] = &component;
    info.dc_huff_tbl_ptrs[0] = &dc;
    info.Ss = 1;
    huffman_take_over(&info, 0, 0);
    return before[1] != NULL;
}
"""


def test_a_lossless_file_is_left_to_libjpeg(tmp_path):
    # libjpeg-turbo 2 refuses such files before they get here, so their state is made by hand.
    (tmp_path / "main.c").write_text(LOSSLESS)
    command = ["cc", "-I", libjpeg.HERE, tmp_path / "main.c", libjpeg.HERE / "huffman.c"]
    subprocess.run([*command, "-o", tmp_path / "main", "-ljpeg"], check=True)
    assert subprocess.run([tmp_path / "main"]).returncode == 0
