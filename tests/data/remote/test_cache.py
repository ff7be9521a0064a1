import fcntl
import hashlib
import os
import pickle
import threading
import time

import pytest
from support.faulty_server import FaultyServer
from support.small_shards import SIZE, cache_in, content, files_of, path_of, wanted

from rwp_dist.base.errors import DataError
from rwp_dist.data.remote.cache import CacheFullError, CacheStats
from rwp_dist.data.remote.source import Patience


def refused(call, *words):
    with pytest.raises(DataError) as caught:
        call()
    message = str(caught.value)
    assert message.count("\n") == 0 and message.endswith(".")
    for word in words:
        assert str(word) in message


@pytest.fixture
def server():
    with FaultyServer({path_of(number): content(number) for number in range(12)}) as server:
        yield server


@pytest.mark.parametrize(
    "fault", ["truncate", "flip", "shorter", "stall", "silent", "dribble", "reset", 500, 503, 429]
)
def test_a_fault_ends_in_the_right_bytes(server, tmp_path, fault):
    server.faults[path_of(0)] = [fault]
    cache = cache_in(tmp_path)
    before = time.monotonic()
    with cache.fetch(*wanted(server, path_of(0))) as held:
        assert held.path.read_bytes() == content(0)
        assert os.pread(held.fd, 10, 5) == content(0)[5:15]
    assert time.monotonic() - before < 4
    stats, requests = cache.stats(), len(server.requests)
    assert (stats.hits, stats.misses) == (0, 1) and stats.retries == requests - 1 >= 1
    with cache.fetch(*wanted(server, path_of(0))):
        assert cache.stats().hits == 1 and len(server.requests) == requests


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
    refused(lambda: cache.fetch(*wanted(server, path_of(0))), path_of(0), *words)
    assert len(server.requests) == requests and files_of(cache) == []


def test_a_download_is_resumed_and_verified_as_a_whole(server, tmp_path):
    server.faults[path_of(0)] = ["truncate"]
    cache = cache_in(tmp_path)
    with cache.fetch(*wanted(server, path_of(0))) as held:
        assert held.path.read_bytes() == content(0)
    assert server.asked(path_of(0))[1] == (f"bytes={SIZE // 2}-", "ok")
    assert cache.stats().bytes_downloaded == SIZE


def test_a_resumed_download_with_a_wrong_first_half_is_found(server, tmp_path):
    flipped = bytearray(content(0))
    flipped[10] ^= 1
    server.files["/bad"], server.faults["/bad"] = bytes(flipped), ["truncate"]
    sha256 = hashlib.sha256(content(0)).hexdigest()
    refused(lambda: cache_in(tmp_path).fetch(server.url("/bad"), SIZE, sha256), "sha256")


def test_equal_basenames_and_changed_contents_do_not_collide(server, tmp_path):
    server.files["/val/000000.tar"] = content(100)
    cache = cache_in(tmp_path)
    for path, data in (("/val/000000.tar", content(100)), (path_of(0), content(0))):
        with cache.fetch(*wanted(server, path)) as held:
            assert held.path.read_bytes() == data and held.path.name.endswith("-000000.tar")
    server.files[path_of(0)] = content(101)
    with cache.fetch(*wanted(server, path_of(0))) as held:
        assert held.path.read_bytes() == content(101)


def test_without_a_manifest(server, tmp_path):
    cache = cache_in(tmp_path, 10 * SIZE)
    server.faults[path_of(0)] = ["truncate"]
    with cache.fetch(server.url(path_of(0))) as held:
        assert held.path.read_bytes() == content(0)


def test_local_files_stay_where_they_are(tmp_path):
    path = tmp_path / "000000.tar"
    path.write_bytes(content(0))
    cache = cache_in(tmp_path)
    with cache.fetch(str(path), SIZE) as held:
        assert held.path == path
    assert cache.stats() == CacheStats() and files_of(cache) == []
    refused(lambda: cache.fetch(str(path), SIZE + 1), path, SIZE, "manifest")
    refused(lambda: cache.fetch(str(tmp_path / "none")), "none", "No such file")


def test_a_cached_file_that_was_cut_is_fetched_again(server, tmp_path):
    cache = cache_in(tmp_path)
    with cache.fetch(*wanted(server, path_of(0))) as held:
        os.truncate(held.path, 100)
    with cache.fetch(*wanted(server, path_of(0))) as held:
        assert held.path.read_bytes() == content(0)


def test_the_shard_used_longest_ago_goes_first_and_never_one_that_is_held(server, tmp_path):
    cache = cache_in(tmp_path, 3 * SIZE + 10, room_s=0.1)

    def fetch(number):
        return cache.fetch(*wanted(server, path_of(number)))

    first = fetch(0)
    for number in (1, 2, 1, 3):
        fetch(number).close()
    assert [name[-10:] for name in files_of(cache)].count("000002.tar") == 0
    assert cache.stats().evictions == 1
    others = [fetch(1), fetch(3)]
    refused(lambda: fetch(4), "hold all", "data.cache_gb")
    with pytest.raises(CacheFullError):
        fetch(4)
    others.pop().close()
    fetch(4).close()
    assert os.pread(first.fd, SIZE, 0) == first.path.read_bytes() == content(0)
    refused(lambda: cache.fetch("http://127.0.0.1:1/x", 4 * SIZE), "does not fit", "data.cache_gb")


def test_a_full_disk(server, tmp_path, monkeypatch):
    cache = cache_in(tmp_path)
    cache.fetch(*wanted(server, path_of(0))).close()
    room = os.posix_fallocate

    def full(fd, offset, size):
        if (files := [name for name in files_of(cache) if name.endswith("0.tar")]) or size == 0:
            assert len(files) == 1
            raise OSError(28, "No space left on device")
        room(fd, offset, size)

    monkeypatch.setattr(os, "posix_fallocate", full)
    cache.fetch(*wanted(server, path_of(1))).close()  # after evicting the other
    assert cache.stats().evictions == 1
    cache.fetch(*wanted(server, path_of(1))).close()
    refused(lambda: cache.fetch(*wanted(server, path_of(10))), "No space left", "data.cache_dir")


def test_a_folder_that_cannot_be_used(tmp_path):
    (tmp_path / "cache").write_text("a file")
    refused(lambda: cache_in(tmp_path), "cache cannot be kept", "data.cache_dir")


def test_prefetching(server, tmp_path):
    cache = cache_in(tmp_path, look_ahead=2)
    server.always[path_of(0)] = 404
    cache.prefetch([wanted(server, path_of(number)) for number in range(4)])
    deadline = time.monotonic() + 5
    while len(server.requests) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [t.name for t in threading.enumerate()].count("rwp-prefetch") == 1
    cache.close()
    assert [path for path, _, _ in server.requests] == [path_of(0), path_of(1)]
    with cache.fetch(*wanted(server, path_of(1))):
        assert cache.stats().hits == 1
    refused(lambda: cache.fetch(*wanted(server, path_of(0))), "404")


def test_a_copy_for_another_process(tmp_path):
    cache = pickle.loads(pickle.dumps(cache_in(tmp_path, 5, stall_s=3.0)))
    assert cache.max_bytes == 5 and cache.patience.stall_s == 3.0
    assert cache.stats() + CacheStats(hits=2) == CacheStats(hits=2)


def test_a_waiting_process_does_not_wait_for_ever(server, tmp_path, monkeypatch):
    cache = cache_in(tmp_path)
    shard = wanted(server, path_of(0))
    cache.fetch(*shard).close()
    name = files_of(cache)[0]
    (cache.folder / "shards" / name).unlink()
    clock = time.time()
    monkeypatch.setattr(time, "time", lambda: clock)
    lock = os.open(cache.folder / "locks" / name, os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    threading.Timer(0.1, lambda: monkeypatch.setattr(time, "time", lambda: clock + 500)).start()
    refused(lambda: cache.fetch(*shard), "another process", "end that process")
    os.close(lock)


def test_a_process_that_tries_again_is_waited_for(server, tmp_path, monkeypatch):
    """Also where no byte comes for longer than one attempt takes: its file stays fresh."""
    server.faults[path_of(0)] = [503, 503, 503]
    cache, ages = cache_in(tmp_path), []

    def wait_s(patience, failures, chance):
        (part,) = (cache.folder / "parts").iterdir()
        ages.append(time.time() - part.stat().st_mtime)
        os.utime(part, (0, 0))
        return 0.0

    monkeypatch.setattr(Patience, "wait_s", wait_s)
    cache.fetch(*wanted(server, path_of(0))).close()
    assert len(ages) == 3 and max(ages) < 60
