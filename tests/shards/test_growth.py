"""Work that grows with the number of shards, and not with its square; files that are read once."""

import math
import os
import pickle
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import FileIO
from pathlib import Path

import pytest
from support.shard_files import image_folder, run, sample_members, tar_file

from rwp_dist.base import files as base_files
from rwp_dist.data.format.manifest import Manifest
from rwp_dist.shards import records, verify
from rwp_dist.shards.records import manifest_in, refuse_lost_shards

ONE = ("--workers", 1)
MOST_EXPONENT = 1.3
"""Of time: 1 is as the number, 2 as its square."""


@contextmanager
def opened() -> Iterator[Counter[str]]:
    """How often this process reads each index, record and manifest."""
    found = Counter[str]()

    def open_file(path: str | Path) -> FileIO:
        name = Path(path).name
        found[name] += name.endswith((".npy", ".json"))
        return FileIO(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base_files, "open_file", open_file)
        yield found


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """Six shards of two images."""
    image_folder(tmp_path / "in", per_class=4)
    run("write", tmp_path / "in", "--out", tmp_path / "t", "--samples-per-shard", 2, *ONE)
    return tmp_path / "t"


def each(count: int, *endings: str) -> dict[str, int]:
    """So many openings of each shard's file with each ending."""
    return {f"t-{row:06d}.tar{ending}": count for row in range(6) for ending in endings}


def test_writing_reads_no_record_and_each_index_once_to_join_them(tmp_path: Path) -> None:
    image_folder(tmp_path / "in", per_class=4)
    with opened() as found:
        run("write", tmp_path / "in", "--out", tmp_path / "t", "--samples-per-shard", 2, *ONE)
    found.pop("manifest.json", None)  # looked for
    assert +found == each(1, ".index.npy")


def test_a_second_write_reads_each_index_and_record_once(tmp_path: Path, written: Path) -> None:
    command = ("write", tmp_path / "in", "--out", written, "--samples-per-shard", 2, *ONE)
    with opened() as found:
        assert "6 shards kept" in run(*command)
    assert +found == each(1, ".json", ".index.npy") | {"manifest.json": 1}


def test_a_part_reads_what_is_of_others_again_when_it_has_finished(
    tmp_path: Path, written: Path
) -> None:
    """They may have made shards anew."""
    command = ("write", tmp_path / "in", "--out", written, "--samples-per-shard", 2, *ONE)
    with opened() as found:
        run(*command, "--part", "0/2")
    assert found["manifest.json"] == 1
    for row in range(6):
        for ending in (".json", ".index.npy"):
            assert found[f"t-{row:06d}.tar{ending}"] == 1 + row % 2


def test_indexing_again_reads_each_index_record_and_manifest_once(tmp_path: Path) -> None:
    for row in range(6):
        tar_file(tmp_path / "t" / f"t-{row:06d}.tar", sample_members(2, first=2 * row))
    with opened() as found:
        run("index", tmp_path / "t", *ONE)
    found.pop("manifest.json", None)  # looked for
    assert +found == each(1, ".index.npy")
    with opened() as found:
        assert "6 shards kept" in run("index", tmp_path / "t", *ONE)
    # The manifest once more, to leave it as it is if nothing has changed.
    assert +found == each(1, ".json", ".index.npy") | {"manifest.json": 2}


@pytest.mark.parametrize("workers", [1, 2])
def test_verifying_reads_each_index_and_the_manifest_once(written: Path, workers: int) -> None:
    with opened() as found:
        run("verify", written, "--workers", workers)
    read_here = each(1, ".index.npy") if workers == 1 else {}
    assert +found == read_here | {"manifest.json": 1}


def many(folder: Path, count: int) -> Manifest:
    """A manifest of so many shards, all of which are links to one."""
    tar_file(folder / "one" / "a.tar", sample_members(2))
    run("index", folder / "one")
    (entry,) = Manifest.load(folder / "one").shards
    out = folder / f"{count}"
    out.mkdir()
    shards = []
    for row in range(count):
        shards.append(replace(entry, name=f"t-{row:06d}.tar"))
        for ending in ("", ".index.npy"):
            os.link(folder / "one" / f"a.tar{ending}", out / f"t-{row:06d}.tar{ending}")
    manifest = Manifest(3, None, tuple(shards), location=str(out))
    manifest.save(out)
    return manifest


def seconds(function) -> float:
    """CPU of this process, the least of three times."""
    times = []
    for _ in range(3):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return min(times)


def test_time_and_messages_of_verify_grow_as_the_number_of_shards(tmp_path: Path) -> None:
    times, sizes = [], []
    for count in (250, 1000):
        manifest = many(tmp_path, count)
        folder = Path(manifest.location)
        checks = list(verify.verify_shards(folder))
        assert len(checks) == count and not [c for c in checks if c.faults]
        times.append(seconds(lambda folder=folder: list(verify.verify_shards(folder, "size"))))
        sizes.append(sum(len(pickle.dumps(batch)) for batch in verify._batches(manifest, 2)))
    assert math.log(times[1] / times[0], 4) < MOST_EXPONENT
    assert sizes[1] < 4.2 * sizes[0] and sizes[1] < 600 * 1000


def test_time_to_look_at_a_folder_grows_as_the_number_of_shards(tmp_path: Path) -> None:
    looks = []
    for count in (1000, 4000):
        names = [f"t-{row:06d}.tar" for row in range(count)]
        folder = tmp_path / f"{count}"
        folder.mkdir()
        for name in names:
            (folder / name).touch()
        (folder / ".written").mkdir()
        recipe = records.Records(folder, "recipe")
        looks.append(seconds(lambda r=recipe, names=names: r.finished_of(names, "none")))
    assert math.log(looks[1] / looks[0], 4) < MOST_EXPONENT


def test_time_to_refuse_lost_shards_grows_as_their_number(tmp_path: Path) -> None:
    times = []
    for count in (1000, 4000):
        entry = {"num_samples": 1, "num_bytes": 5120, "sha256": "0" * 64, "index_sha256": "0" * 64}
        shards = tuple(verify.ShardEntry(f"{row}.tar", **entry) for row in range(count))
        known = Manifest(1, None, shards, location=str(tmp_path))
        names = [shard.name for shard in reversed(shards)]
        times.append(seconds(lambda known=known, names=names: refuse_lost_shards(known, names)))
    assert math.log(times[1] / times[0], 4) < MOST_EXPONENT


def test_no_file_is_searched_for_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"{}")
    assert manifest_in(tmp_path / "a.tar") is None and manifest_in(tmp_path) is None
