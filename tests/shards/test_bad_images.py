"""One verdict: ``write --short-side``, ``verify``, ``stats``, contact sheet and every decoder."""

import io
import struct
import zlib
from contextlib import nullcontext

import numpy as np
import pytest
from PIL import Image
from support.kinds import JPEGS, OTHERS, chunk, png
from support.shard_files import jpeg, run, tar_file
from support.tiers import TIERS

from rwp_dist.base.errors import DataError
from rwp_dist.data.image import Decoder, UndecodableImage, why_undecodable
from rwp_dist.shards.preprocess import Preprocess
from rwp_dist.shards.stats import TILE
from rwp_dist.shards.verify import verify_shards


def claimed(*extra, width=8, height=8):
    """A black PNG of 8x8 pixels whose header may claim another size."""
    data = png(8, 8, 8, 2, [bytes(24)] * 8, *extra)
    return data[:8] + chunk(b"IHDR", struct.pack(">II", width, height) + data[24:29]) + data[33:]


def damaged(data):
    """A JPEG with a reserved marker in the middle of its scan."""
    at = 3 * len(data) // 4
    return data[:at] + b"\xff\x02" + data[at + 2 :]


BAD = {
    "pHYs of 3 bytes": claimed(chunk(b"pHYs", b"abc")),
    "sRGB of none": claimed(chunk(b"sRGB", b"")),
    "much text": claimed(chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**21)))),
    "200 million pixels": claimed(width=40_000, height=5_000),
    "150 million pixels": claimed(width=15_000, height=10_000),
    "cut png": claimed()[:-30],
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
            Preprocess(short_side)(data, "png", "bad.png")


def test_all_agree_on_files_of_every_kind(tmp_path, capfd):
    files = {**{f"jpeg {name}": data for name, data in JPEGS.items()}, **OTHERS}
    del files["nothing"]  # no tar that training takes has it
    bad = {name for name, data in files.items() if why_undecodable(data)}
    members = []
    for number, (name, data) in enumerate(files.items()):
        ending = "jpg" if name.startswith("jpeg") else "png"
        members += [(f"{number:03d}.{ending}", data), (f"{number:03d}.cls", b"0")]
    tar_file(tmp_path / "a.tar", members)
    run("index", tmp_path)
    found = [fault for check in verify_shards(tmp_path, "decode") for fault in check.faults]
    assert {list(files)[fault.sample] for fault in found} == bad
    said = run("stats", tmp_path, "--contact-sheet", tmp_path / "sheet.png", "--samples", 400)
    assert f"no images   {len(bad)} of {len(files)}" in said
    for name, data in files.items():
        with pytest.raises(DataError) if name in bad else nullcontext():
            Preprocess(8)(data, "png", name)
    assert capfd.readouterr().err == ""


def test_an_image_that_no_jpeg_can_hold_is_refused_by_its_name():
    buffer = io.BytesIO()
    Image.new("L", (70_000, 4)).save(buffer, "png")
    with pytest.raises(DataError, match=r"wide\.png: this is no readable image"):
        Preprocess(4)(buffer.getvalue(), "png", "wide.png")


def test_grey_of_16_bits_is_scaled_when_it_is_shrunk_and_on_the_sheet(tmp_path):
    ramp = np.linspace(0, 65535, TILE).astype(np.uint16)[None].repeat(TILE, 0)
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, "png")
    shrunk, kind = Preprocess(TILE // 2, quality=95)(buffer.getvalue(), "png", "a.png")
    small = Image.open(io.BytesIO(shrunk))
    assert (small.mode, kind) == ("L", "jpg")
    expected = np.linspace(0, 255, TILE // 2)
    assert np.abs(np.asarray(small).astype(int)[40] - expected).max() < 4
    tar_file(tmp_path / "a.tar", [("a.png", buffer.getvalue()), ("a.cls", b"0")])
    run("index", tmp_path)
    run("stats", tmp_path, "--contact-sheet", tmp_path / "sheet.png")
    row = np.asarray(Image.open(tmp_path / "sheet.png"))[TILE // 2, 10 : 10 + TILE, 0]
    assert np.array_equal(row, ramp[0] >> 8)
