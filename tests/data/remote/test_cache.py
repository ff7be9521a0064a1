import errno
import hashlib
import os
import pickle
import threading
import time

import pytest
from support.faulty_server import STALL_S, FaultyServer
from support.mounts import read_only
from support.small_shards import SIZE, cache_in, content, files_of, path_of, shard_at
from support.until import HANG_S, until

from rwp_dist.base.errors import DataError
from rwp_dist.data.remote import CacheStats, Prefetcher, Shard
from rwp_dist.data.remote import cache as module


def refused(cache, shard, *words, key=None):
    with pytest.raises(DataError) as caught:
        cache.open(shard)
    message = str(caught.value)
    assert message.count("\n") == 0 and message.endswith(".")
    for word in words:
        assert str(word) in message
    assert caught.value.key == key


def read(cache, shard):
    with cache.open(shard) as file:
        return file.read()


@pytest.fixture
def server():
    with FaultyServer({path_of(number): content(number) for number in range(12)}) as server:
        yield server


def test_a_shard_larger_than_any_disk_evicts_nothing(server, tmp_path):
    cache = cache_in(tmp_path)
    read(cache, shard_at(server, path_of(0)))
    kept, asked = files_of(cache), len(server.requests)
    huge = Shard(server.url(path_of(1)), 2**62, "a" * 64)
    refused(cache, huge, "does not fit onto this disk", key="data.cache_dir")
    assert files_of(cache) == kept and len(server.requests) == asked


def test_an_index_without_end_is_not_read_to_its_end(server, tmp_path):
    shard = shard_at(server, path_of(0))._replace(num_bytes=None, most_bytes=SIZE // 2)
    refused(cache_in(tmp_path), shard, "its sha256 is not the manifest's, twice the same")


@pytest.mark.parametrize(
    "fault", ["truncate", "flip", "shorter", "stall", "silent", "dribble", "reset", 500, 503, 429]
)
def test_a_fault_ends_in_the_right_bytes(server, tmp_path, fault):
    server.faults[path_of(0)] = [fault]
    cache = cache_in(tmp_path)
    before = time.monotonic()
    assert read(cache, shard_at(server, path_of(0))) == content(0)
    assert time.monotonic() - before < STALL_S
    stats, requests = cache.take_stats(), len(server.requests)
    assert (stats.hits, stats.misses) == (0, 1) and stats.retries == requests - 1 >= 1
    assert read(cache, shard_at(server, path_of(0))) == content(0)
    assert cache.take_stats() == CacheStats(hits=1) and len(server.requests) == requests


@pytest.mark.parametrize(
    ("fault", "requests", "words"),
    [
        (404, 1, ["answered 404", "check the address"]),
        (403, 1, ["answered 403", "credentials"]),
        (500, 4, ["4 attempts", "answered 500"]),
        ("stall", 4, ["4 attempts", "no byte came"]),
        ("flip", 2, ["sha256", "write the manifest again"]),
        ("shorter", 2, ["only", SIZE, "write the manifest again"]),
    ],
)
def test_a_lasting_fault_is_a_clear_stop(server, tmp_path, fault, requests, words):
    server.always[path_of(0)] = fault
    cache = cache_in(tmp_path)
    refused(cache, shard_at(server, path_of(0)), path_of(0), *words)
    assert len(server.requests) == requests and files_of(cache) == []


def test_a_download_that_broke_off_begins_again_and_every_byte_is_counted(server, tmp_path):
    server.faults[path_of(0)] = ["truncate"]
    cache = cache_in(tmp_path)
    assert read(cache, shard_at(server, path_of(0))) == content(0)
    assert cache.take_stats() == CacheStats(misses=1, bytes_downloaded=SIZE * 3 // 2, retries=1)


def test_a_shard_that_is_too_long_is_found_before_its_end(server, tmp_path):
    url, sha256 = server.url(path_of(0)), hashlib.sha256(content(0)).hexdigest()
    cache = cache_in(tmp_path)
    refused(cache, Shard(url, 1000, sha256), "more bytes", "write the manifest again")
    assert files_of(cache) == [] and len(server.requests) == 2


def test_equal_basenames_and_changed_contents_do_not_collide(server, tmp_path):
    server.files["/val/000000.tar"] = content(100)
    cache = cache_in(tmp_path)
    for path, data in (("/val/000000.tar", content(100)), (path_of(0), content(0))):
        assert read(cache, shard_at(server, path)) == data
    server.files[path_of(0)] = content(101)
    assert read(cache, shard_at(server, path_of(0))) == content(101)
    assert len(files_of(cache)) == 3
    assert all(name.endswith("-000000.tar") for name in files_of(cache))


def test_without_a_manifest(server, tmp_path):
    cache = cache_in(tmp_path, 10 * SIZE)
    server.faults[path_of(0)] = ["truncate"]
    assert read(cache, Shard(server.url(path_of(0)))) == content(0)


def test_a_cached_file_that_was_cut_is_fetched_again(server, tmp_path):
    cache = cache_in(tmp_path)
    cache.open(shard_at(server, path_of(0))).close()
    (name,) = files_of(cache)
    os.truncate(cache.folder / "shards" / name, 100)
    assert read(cache, shard_at(server, path_of(0))) == content(0)


def numbers_in(cache):
    return [int(name[-10:-4]) for name in sorted(files_of(cache), key=lambda name: name[-10:])]


def test_the_shard_used_longest_ago_goes_first_and_what_is_open_stays_readable(server, tmp_path):
    cache = cache_in(tmp_path, 3 * SIZE + 10)
    first = cache.open(shard_at(server, path_of(0)))
    for number in (1, 2, 1, 3):
        cache.open(shard_at(server, path_of(number))).close()
    assert numbers_in(cache) == [1, 2, 3] and cache.take_stats().evictions == 1
    cache.open(shard_at(server, path_of(4))).close()
    assert numbers_in(cache) == [1, 3, 4]
    assert first.read() == content(0)
    large = Shard("http://127.0.0.1:1/x", 4 * SIZE)
    refused(cache, large, "does not fit", key="data.cache_gb")


def test_a_full_disk(server, tmp_path, monkeypatch):
    cache = cache_in(tmp_path)
    cache.open(shard_at(server, path_of(0))).close()
    allocate = os.posix_fallocate

    def room_for_one(fd, offset, size):
        if any((cache.folder / "shards").iterdir()):
            raise OSError(28, "No space left on device")
        allocate(fd, offset, size)

    def room_for_none(fd, offset, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", room_for_one)
    assert read(cache, shard_at(server, path_of(1))) == content(1)  # after evicting the other
    assert cache.take_stats().evictions == 1 and numbers_in(cache) == [1]
    monkeypatch.setattr(os, "posix_fallocate", room_for_none)
    assert read(cache, shard_at(server, path_of(1))) == content(1)
    refused(cache, shard_at(server, path_of(2)), "No space left", key="data.cache_dir")
    assert numbers_in(cache) == []


def test_a_disk_that_fills_while_a_shard_of_unknown_size_comes(server, tmp_path, monkeypatch):
    cache = cache_in(tmp_path)
    cache.open(shard_at(server, path_of(0))).close()

    class Full(module.FileIO):
        def write(self, data):
            if any((cache.folder / "shards").iterdir()):
                raise OSError(28, "No space left on device")
            return super().write(data)

    monkeypatch.setattr(module, "FileIO", Full)
    assert read(cache, Shard(server.url(path_of(1)))) == content(1)
    assert cache.take_stats().evictions == 1


def test_a_folder_that_cannot_be_used(tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DataError, match="cache cannot be kept") as caught:
        cache_in(tmp_path)
    assert caught.value.key == "data.cache_dir"


def test_what_killed_processes_left_is_removed(server, tmp_path):
    cache = cache_in(tmp_path, 2 * SIZE + 10)
    for name, age_s in (("old", module.LEFTOVER_S + 60), ("new", 60)):
        path = cache.folder / "parts" / name
        path.write_bytes(bytes(SIZE))
        os.utime(path, (time.time() - age_s,) * 2)
    for number in range(2):
        cache.open(shard_at(server, path_of(number))).close()
    assert [name for name in files_of(cache) if "-" not in name] == ["new"]
    assert [int(name[-10:-4]) for name in files_of(cache) if "-" in name] == [1]


def test_a_disk_with_another_clock_loses_no_download_that_is_under_way(
    server, tmp_path, monkeypatch
):
    cache = cache_in(tmp_path, 2 * SIZE + 10)
    behind_s = 10 * module.LEFTOVER_S
    for name, age_s in (("old", module.LEFTOVER_S + 60), ("new", 60)):
        path = cache.folder / "parts" / name
        path.write_bytes(bytes(SIZE // 2))
        os.utime(path, (time.time() - behind_s - age_s,) * 2)
    monkeypatch.setattr(module.disk, "disk_time", lambda folder: time.time() - behind_s)
    cache.open(shard_at(server, path_of(0))).close()
    assert [path.name for path in cache._leftovers()] == ["old"]


def test_a_cache_that_was_filled_before_may_be_read_only(server, tmp_path):
    kept = read(cache_in(tmp_path), shard_at(server, path_of(0)))
    with read_only(tmp_path):
        assert read(cache_in(tmp_path), shard_at(server, path_of(0))) == kept
        refused(
            cache_in(tmp_path),
            shard_at(server, path_of(1)),
            "Read-only file system",
            key="data.cache_dir",
        )


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP])
def test_a_disk_that_reserves_no_space_is_used(server, tmp_path, monkeypatch, number):
    def lacking(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", lacking)
    assert read(cache_in(tmp_path), shard_at(server, path_of(0))) == content(0)


def test_prefetching(server, tmp_path):
    cache = cache_in(tmp_path)
    server.always[path_of(0)] = 404
    prefetcher = Prefetcher(cache, look_ahead=2)
    prefetcher.want([shard_at(server, path_of(number)) for number in range(4)])
    until(lambda: any((cache.folder / "shards").iterdir()), "the second shard")
    prefetcher.close()
    prefetcher._thread.join(timeout=HANG_S)
    assert not prefetcher._thread.is_alive()
    assert [path for path, _ in server.requests] == [path_of(0), path_of(1)]
    cache.prefetch(shard_at(server, path_of(1)))
    assert cache.take_stats() == CacheStats(misses=1, bytes_downloaded=SIZE)
    refused(cache, shard_at(server, path_of(0)), "404")


def test_a_copy_for_another_process(tmp_path):
    cache = pickle.loads(pickle.dumps(cache_in(tmp_path, 5, stall_s=3.0)))
    assert cache.max_bytes == 5 and cache.patience.stall_s == 3.0
    assert cache.take_stats() + CacheStats(hits=2) == CacheStats(hits=2)


def test_threads_that_want_one_shard_download_it_once(server, tmp_path):
    cache, shard, found = cache_in(tmp_path), shard_at(server, path_of(0)), []
    threads = [threading.Thread(target=lambda: found.append(read(cache, shard))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [content(0)] * 8 and len(server.requests) == 1
    assert cache.take_stats() == CacheStats(hits=7, misses=1, bytes_downloaded=SIZE)


@pytest.mark.parametrize("error", [None, OSError(38, "Function not implemented")])
def test_a_lock_that_cannot_be_had_costs_a_second_download_and_no_more(
    server, tmp_path, monkeypatch, error
):
    """The process that holds it was stopped, or the disk has no locks."""

    def flock(fd, operation):
        raise error or BlockingIOError

    monkeypatch.setattr("fcntl.flock", flock)
    monkeypatch.setattr(module, "WAIT_FOR_OTHERS_S", 0.1)
    server.faults[path_of(0)] = ["stall"]
    cache, shard = cache_in(tmp_path), shard_at(server, path_of(0))
    other = threading.Thread(target=cache.prefetch, args=(shard,))
    other.start()
    assert server.stalled.wait(60)
    assert read(cache, shard) == content(0)
    other.join()
    assert read(cache, shard) == content(0) and len(files_of(cache)) == 1
    stats = cache.take_stats()
    assert (stats.hits, stats.misses) == (1, 2)
