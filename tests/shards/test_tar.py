"""The tar of a shard: webdataset's bytes, and an index that needs no second look."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds

from rwp_dist.data.format.index import index_tar
from rwp_dist.shards.tar import Packed, write_tar

NAMES = {
    "plain": "0000001_n01440764_10026",
    "of 96 bytes": "x" * 96,
    "of 97 bytes": "x" * 97,
    "long": "y" * 300,
    "in folders": "/".join(["folder"] * 20),
    "Latin": "0000001_café",
    "Japanese": "犬" * 40,
    "no UTF-8": os.fsdecode(b"caf\xe9"),
}
SIZES = (0, 1, 511, 512, 513, 65_535, 65_536, 200_000)


def packed(name: str) -> list[Packed]:
    """Samples of all sizes with labels of one to ten digits."""
    rng = np.random.default_rng(len(name))
    return [
        Packed(f"{name}{row}", ("jpg", "png", "webp", "jpeg")[row % 4], rng.bytes(size), 10**row)
        for row, size in enumerate(SIZES)
    ]


def by_webdataset(samples: list[Packed]) -> bytes:
    """The tar as webdataset writes it."""
    buffer = io.BytesIO()
    with wds.TarWriter(buffer, mtime=0, encoder=False) as tar:
        for sample in samples:
            label = b"%d" % sample.label
            tar.write({"__key__": sample.key, sample.kind: sample.image, "cls": label})
    return buffer.getvalue()


@pytest.mark.parametrize("name", NAMES.values(), ids=list(NAMES))
def test_its_bytes_are_those_of_webdataset(tmp_path: Path, name: str) -> None:
    write_tar(tmp_path / "a.tar", packed(name))
    assert (tmp_path / "a.tar").read_bytes() == by_webdataset(packed(name))


@pytest.mark.parametrize("count", range(12))
def test_it_ends_as_webdatasets_does_whatever_its_length(tmp_path: Path, count: int) -> None:
    samples = [Packed(f"{row}", "jpg", b"x" * 1000, row) for row in range(count)]
    write_tar(tmp_path / "a.tar", samples)
    assert (tmp_path / "a.tar").read_bytes() == by_webdataset(samples)


@pytest.mark.parametrize("name", NAMES.values(), ids=list(NAMES))
def test_index_size_and_checksum_are_those_of_the_file_that_is_read_back(
    tmp_path: Path, name: str
) -> None:
    indexed = write_tar(tmp_path / "a.tar", packed(name))
    with (tmp_path / "a.tar").open("rb") as file:
        again = index_tar(file, "a.tar")
    assert indexed.index.tolist() == again.index.tolist()
    assert indexed.index.dtype == again.index.dtype
    assert (indexed.num_bytes, indexed.sha256) == (again.num_bytes, again.sha256)
    assert indexed.left_out == again.left_out == {}


def test_an_exception_leaves_the_old_file_alone(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"old")

    def samples():
        yield from packed("a")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_tar(tmp_path / "a.tar", samples())
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.tar", b"old")]
