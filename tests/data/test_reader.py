import os
from functools import partial
from pathlib import Path

import pytest
from support.small_shards import FORK, SIZE, content, index_of
from support.until import HANG_S

from rwp_dist.base.errors import DataError
from rwp_dist.data.reader import BadSample, ShardFiles
from rwp_dist.data.remote import Shard


def test_samples_by_index(tmp_path):
    path = tmp_path / "x.tar"
    path.write_bytes(content(0))
    index = index_of(content(0))
    read = partial(ShardFiles().sample, Shard(str(path)), index)
    assert read(3) == content(0)[60_000:80_000]
    flipped = bytearray(content(0))
    flipped[60_010] ^= 4
    path.write_bytes(bytes(flipped[:190_000]))
    read = partial(ShardFiles(max_open=1).sample, Shard(str(path)), index)
    assert read(2) == content(0)[40_000:60_000]
    with pytest.raises(BadSample, match=r"x\.tar: sample 3 is damaged"):
        read(3)
    with pytest.raises(BadSample, match=r"x\.tar: sample 9 is cut off.*10000 of 20000"):
        read(9)
    with pytest.raises(IndexError):
        read(10)


def test_a_pipe_in_the_place_of_a_shard_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.tar")
    with pytest.raises(DataError, match="it is a pipe, socket or device, not a file"):
        ShardFiles().sample(Shard(str(tmp_path / "x.tar")), index_of(content(0)), 3)


def open_files():
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_no_more_files_than_allowed_are_open(tmp_path):
    files = ShardFiles(max_open=2)
    readers = []
    for number in range(5):
        path = tmp_path / f"{number}.tar"
        path.write_bytes(content(number))
        readers.append(partial(files.sample, Shard(str(path)), index_of(content(number))))
    before = open_files()
    for turn in range(20):
        assert readers[turn % 5](1) == content(turn % 5)[20_000:40_000]
        assert open_files() <= before + 2
    results = FORK.Queue()
    process = FORK.Process(target=lambda: results.put(readers[4](0)))
    process.start()
    assert results.get(timeout=HANG_S) == content(4)[:20_000]
    process.join()
    assert readers[4](2) == content(4)[40_000:60_000]


def test_a_shard_that_cannot_be_what_the_manifest_says(tmp_path):
    path = tmp_path / "000000.tar"
    path.write_bytes(content(0))
    for shard, problem in (
        (Shard(str(path), SIZE + 1), f"{SIZE} bytes where its manifest says {SIZE + 1}"),
        (Shard(str(tmp_path / "none")), "none: cannot be read"),
    ):
        with pytest.raises(DataError, match=problem) as caught:
            ShardFiles().sample(shard, index_of(content(0)), 0)
        assert caught.value.cure


def test_memory_of_a_view_is_used_again_and_grows_with_samples(tmp_path):
    path = tmp_path / "x.tar"
    path.write_bytes(content(0))
    index, shard, files = index_of(content(0)), Shard(str(path)), ShardFiles()
    first = files.view(shard, index, 0)
    assert first == content(0)[:20_000]
    second = files.view(shard, index, 1)
    assert first == second == content(0)[20_000:40_000]
    files._memory = memoryview(bytearray(100))
    assert files.view(shard, index, 2) == content(0)[40_000:60_000]
    assert files.sample(shard, index, 0) == content(0)[:20_000]
