"""One shard: which images Pillow looks at, and when a shard is stale."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.shard_files import files, image_folder, jpeg, run, tar_contents

from rwp_dist.data.image import orientation
from rwp_dist.shards.pack import _may_be_turned

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'


def tagged(kind: str, **options: object) -> bytes:
    """An image with the options of Pillow's writer."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(jpeg(3))).save(buffer, format=kind, **options)
    return buffer.getvalue()


def exif(turn: int) -> bytes:
    """An EXIF block that asks for a turn."""
    tags = Image.Exif()
    tags[0x0112] = turn
    return tags.tobytes()


TURNED = {
    "exif": tagged("jpeg", exif=exif(6)),
    "progressive": tagged("jpeg", exif=exif(3), progressive=True),
    "icc and comment": tagged("jpeg", exif=exif(8), icc_profile=b"\xff\xda" * 9, comment=b"\xff"),
    "xmp": tagged("jpeg", xmp=XMP),
    "png": tagged("png", exif=exif(6)),
    "webp": tagged("webp", exif=exif(6)),
}


@pytest.mark.parametrize("name", TURNED)
def test_an_image_that_is_to_be_turned_is_looked_at(name: str) -> None:
    assert orientation(TURNED[name]) != 1
    assert _may_be_turned(TURNED[name])


def test_a_plain_jpeg_is_not_looked_at() -> None:
    assert not _may_be_turned(jpeg(0))
    assert not _may_be_turned(tagged("jpeg", progressive=True, icc_profile=b"\xff\xe1" * 9))


def test_no_damage_hides_a_turn_that_pillow_sees() -> None:
    rng = np.random.default_rng(0)
    seen = 0
    for data in TURNED.values():
        for _ in range(80):
            damaged = bytearray(data)
            for place in rng.integers(min(len(data), 400), size=rng.integers(1, 4)):
                damaged[place] = rng.choice([0, 1, 0xD8, 0xDA, 0xE0, 0xE1, 0xFF])
            cut = bytes(damaged[: rng.integers(4, len(damaged))])
            for each in (bytes(damaged), cut):
                if orientation(each) != 1:
                    seen += 1
                    assert _may_be_turned(each), each
    assert seen > 130


@pytest.mark.parametrize("preprocessed", [False, True])
def test_a_record_with_a_checksum_of_its_images_is_understood(
    tmp_path: Path, preprocessed: bool
) -> None:
    """As version 0.2 wrote it first for all shards, and still does for preprocessed images."""
    image_folder(tmp_path / "in", classes=("ant",), per_class=4)
    command = ["write", tmp_path / "in", "--out", tmp_path / "t"]
    command += ["--short-side", 8] if preprocessed else []
    run(*command)
    (path,) = (tmp_path / "t" / ".written").iterdir()
    record = json.loads(path.read_text())
    assert (record["made_from"]["sha256"] is None) == (not preprocessed)
    if not preprocessed:
        digests = [
            hashlib.sha256(image).digest()
            for _, image, _ in tar_contents(tmp_path / "t" / "t-000000.tar")
        ]
        record["made_from"]["sha256"] = hashlib.sha256(b"".join(digests)).hexdigest()
        path.write_text(json.dumps(record))
    before = files(tmp_path / "t")
    renew(tmp_path / "in" / "ant")
    assert "1 shard kept." in run(*command)
    image = tmp_path / "in" / "ant" / "ant_2.JPEG"
    image.write_bytes(jpeg(77))
    assert "1 made anew" in run(*command)
    image.write_bytes(jpeg(2))
    assert "1 made anew" in run(*command)
    assert files(tmp_path / "t") == before


def renew(folder: Path) -> None:
    """The same files, copied."""
    for path in folder.iterdir():
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)


def test_a_tar_that_was_damaged_is_written_again_when_its_images_are_compared(
    tmp_path: Path,
) -> None:
    image_folder(tmp_path / "in", per_class=2)
    run("write", tmp_path / "in", "--out", tmp_path / "t")
    before = files(tmp_path / "t")
    tar = tmp_path / "t" / "t-000000.tar"
    damaged = bytearray(tar.read_bytes())
    damaged[damaged.index(jpeg(0)) + 200] ^= 1
    tar.write_bytes(damaged)
    renew(tmp_path / "in" / "ant")
    assert "1 made anew" in run("write", tmp_path / "in", "--out", tmp_path / "t")
    assert files(tmp_path / "t") == before
