"""One verdict: ``write --short-side``, ``verify``, ``stats``, contact sheet and every decoder."""

import importlib.util
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from support.shard_files import jpeg, run, tar_file

from rwp_dist.base.errors import DataError
from rwp_dist.data.image import Decoder, UndecodableImage
from rwp_dist.data.image.jpeg import libjpeg
from rwp_dist.shards.pack import Shrink
from rwp_dist.shards.stats import TILE
from rwp_dist.shards.verify import verify_shards

TIERS = ["torchvision", "pil"]
TIERS += ["libjpeg"] if libjpeg.available() else []
TIERS += ["simplejpeg"] if importlib.util.find_spec("simplejpeg") else []


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*extra, width=8, height=8):
    """A black PNG whose header may claim another size."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(25 * 8))
    parts = [chunk(b"IHDR", head), *extra, chunk(b"IDAT", rows), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def damaged(data):
    """A JPEG with a reserved marker in the middle of its scan."""
    at = 3 * len(data) // 4
    return data[:at] + b"\xff\x02" + data[at + 2 :]


BAD = {
    "pHYs of 3 bytes": png(chunk(b"pHYs", b"abc")),
    "sRGB of none": png(chunk(b"sRGB", b"")),
    "much text": png(chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**21)))),
    "200 million pixels": png(width=40_000, height=5_000),
    "150 million pixels": png(width=15_000, height=10_000),
    "cut png": png()[:-30],
    "cut jpeg": jpeg(1, (64, 48))[:-200],
    "damaged jpeg": damaged(jpeg(1, (64, 48))),
    "no image": b"no image",
}


@pytest.mark.parametrize("kind", BAD)
def test_all_agree_that_an_image_is_bad_and_none_falls_over_it(tmp_path, kind):
    data = BAD[kind]
    name = "bad.jpg" if "jpeg" in kind else "bad.png"
    tar_file(
        tmp_path / "a.tar", [(name, data), ("bad.cls", b"0"), ("c.jpg", jpeg(1)), ("c.cls", b"0")]
    )
    run("index", tmp_path)
    said = run("stats", tmp_path, "--contact-sheet", tmp_path / "sheet.png")
    assert "no images   1 of 2" in said and "of 1 random images" in said
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))[12 : TILE + 8]
    assert (sheet[:, 12 : TILE + 8] == 255).all() and not (sheet[:, TILE + 22 :] == 255).all()
    faults = [fault for check in verify_shards(tmp_path, "decode") for fault in check.faults]
    assert [fault.sample for fault in faults] == [0]
    for tier in TIERS:
        with pytest.raises(UndecodableImage):
            Decoder(tier).decode(data)
    for short_side in (4, 8, 10_000):  # smaller, and no smaller: the file as it is
        with pytest.raises(DataError, match=r"bad\.png: this is no readable image"):
            Shrink(short_side, 90)(data, "bad.png")


def test_an_image_that_no_jpeg_can_hold_is_refused_by_its_name():
    buffer = io.BytesIO()
    Image.new("L", (70_000, 4)).save(buffer, "png")
    with pytest.raises(DataError, match=r"wide\.png: this is no readable image"):
        Shrink(4, 90)(buffer.getvalue(), "wide.png")


def test_grey_of_16_bits_is_scaled_when_it_is_shrunk_and_on_the_sheet(tmp_path):
    ramp = np.linspace(0, 65535, TILE).astype(np.uint16)[None].repeat(TILE, 0)
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, "png")
    small = Image.open(io.BytesIO(Shrink(TILE // 2, 95)(buffer.getvalue(), "a.png")))
    assert small.mode == "L"
    expected = np.linspace(0, 255, TILE // 2)
    assert np.abs(np.asarray(small).astype(int)[40] - expected).max() < 4
    tar_file(tmp_path / "a.tar", [("a.png", buffer.getvalue()), ("a.cls", b"0")])
    run("index", tmp_path)
    run("stats", tmp_path, "--contact-sheet", tmp_path / "sheet.png")
    row = np.asarray(Image.open(tmp_path / "sheet.png"))[TILE // 2, 10 : 10 + TILE, 0]
    assert np.array_equal(row, ramp[0] >> 8)
