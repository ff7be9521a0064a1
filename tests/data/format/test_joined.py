"""The joined index says what manifest and indexes say, or is not taken."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.stream_sets import write_set

from rwp_dist.base.errors import DataError
from rwp_dist.data.checked import load_indexes
from rwp_dist.data.format.index import INDEX_DTYPE, index_bytes, index_header
from rwp_dist.data.format.joined import ShardTable, belongs, map_joined, parts, read_joined
from rwp_dist.data.format.manifest import JOINED_NAME, Manifest


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("joined") / "train")


def test_it_holds_every_entry_and_every_index(folder: Path) -> None:
    manifest, joined = Manifest.load(folder), map_joined(folder / JOINED_NAME)
    assert belongs(joined, manifest)
    table = ShardTable(joined)
    assert tuple(table) == manifest.shards and table[-1] == manifest.shards[-1]
    assert table[1:3] == manifest.shards[1:3]
    with pytest.raises(IndexError):
        table[len(table)]
    for found, known in zip(parts(joined), load_indexes(manifest), strict=True):
        assert np.array_equal(found, known)


def test_its_samples_are_not_copied_and_cannot_be_written(folder: Path) -> None:
    samples = map_joined(folder / JOINED_NAME).samples
    assert not samples.flags.owndata and not samples.flags.writeable


def test_numpy_reads_it_without_this_project(folder: Path) -> None:
    with (folder / JOINED_NAME).open("rb") as file:
        *_, samples = (np.load(file) for _ in range(4))
    assert np.array_equal(samples, map_joined(folder / JOINED_NAME).samples)


@pytest.mark.parametrize("num", [0, 1, 5, 10**6])
def test_the_sha256_of_a_shards_part_is_that_of_its_index_file(num: int) -> None:
    index = np.zeros(num, INDEX_DTYPE)
    assert index_header(num) + index.tobytes() == index_bytes(index)


def test_any_changed_byte_makes_it_another_or_none(folder: Path) -> None:
    manifest, content = Manifest.load(folder), (folder / JOINED_NAME).read_bytes()
    rng = np.random.default_rng(0)
    for place in [*range(0, 600, 7), *rng.integers(0, len(content), 300).tolist()]:
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        try:
            joined = read_joined(bytes(changed), "it")
        except DataError:
            continue
        assert not belongs(joined, manifest) or _is_in_header(content, place)


def _is_in_header(content: bytes, place: int) -> bool:
    """Bytes there are an array's type and size, or padding, which means nothing."""
    begin = content.rfind(b"\x93NUMPY", 0, place + 1)
    return begin <= place <= content.index(b"\n", begin)


@pytest.mark.parametrize("length", [0, 1, 64, 200, -1])
def test_one_that_is_cut_is_none(folder: Path, tmp_path: Path, length: int) -> None:
    path = tmp_path / JOINED_NAME
    path.write_bytes((folder / JOINED_NAME).read_bytes()[:length])
    with pytest.raises(DataError, match="no joined index"):
        map_joined(path)


def test_that_of_other_classes_does_not_belong(folder: Path) -> None:
    manifest, joined = Manifest.load(folder), map_joined(folder / JOINED_NAME)
    renamed = replace(manifest, classes=tuple("abcde"))
    assert not belongs(joined, renamed)
    assert not belongs(joined, replace(manifest, shards=manifest.shards[1:]))
