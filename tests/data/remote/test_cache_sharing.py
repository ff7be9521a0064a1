import os
import signal
import threading
import time

import numpy as np
import pytest
from support.faulty_server import FaultyServer
from support.small_shards import (
    FORK,
    SIZE,
    cache_in,
    content,
    files_of,
    index_of,
    path_of,
    shard_at,
)

from rwp_dist.data.reader import ShardFiles
from rwp_dist.data.remote import CacheStats, Prefetcher


@pytest.fixture
def server():
    with FaultyServer({path_of(number): content(number) for number in range(12)}) as server:
        yield server


def read_all(cache, shards, passes, seed, results):
    files, prefetcher = ShardFiles(max_open=3, cache=cache), Prefetcher(cache, 2)
    generator = np.random.default_rng(seed)
    bad = 0
    for _ in range(passes):
        for at, (shard, data) in enumerate(shards):
            prefetcher.want(following for following, _ in shards[at + 1 : at + 3])
            index = index_of(data)
            size = len(data) // len(index)
            for row in generator.permutation(len(index)):
                row = int(row)
                bad += files.sample(shard, index, row) != data[row * size : (row + 1) * size]
    files.close()
    prefetcher.close()
    prefetcher._thread.join()
    results.put((bad, cache.take_stats()))


def in_four_processes(cache, orders, passes, sample=lambda: None):
    results = FORK.Queue()
    processes = [
        FORK.Process(target=read_all, args=(cache, shards, passes, seed, results))
        for seed, shards in enumerate(orders)
    ]
    for process in processes:
        process.start()
    answers = []
    deadline = time.monotonic() + 60
    while len(answers) < len(processes) and time.monotonic() < deadline:
        sample()
        while not results.empty():
            answers.append(results.get())
        time.sleep(0.002)
    for process in processes:
        process.join(5)
        assert process.exitcode == 0
    assert sum(bad for bad, _ in answers) == 0
    return sum((stats for _, stats in answers), CacheStats())


def shards_of(server, numbers):
    return [(shard_at(server, path_of(number)), content(number)) for number in numbers]


def test_four_processes_download_every_shard_once(server, tmp_path):
    stats = in_four_processes(cache_in(tmp_path), [shards_of(server, range(12))] * 4, passes=2)
    assert stats.misses == len(server.requests) == 12 and stats.evictions == 0
    assert stats.bytes_downloaded == 12 * SIZE


@pytest.mark.flaky(reruns=2)  # how often shards come again depends on who is scheduled when
def test_four_processes_share_a_cache_of_half_the_size(server, tmp_path):
    limit = 6 * SIZE + 10
    server.faults = {path_of(n): ["flip", "truncate", 503, "reset"][n % 4 :] for n in range(12)}
    cache = cache_in(tmp_path, limit, retries=8)
    orders = [shards_of(server, np.roll(range(12), 3 * turn)) for turn in range(4)]
    sizes = []

    def sample():
        seen = {}
        for kind in ("parts", "shards"):
            for entry in os.scandir(cache.folder / kind):
                try:
                    status = entry.stat()
                except FileNotFoundError:
                    continue
                seen[status.st_ino] = status.st_size
        sizes.append(sum(seen.values()))

    stats = in_four_processes(cache, orders, passes=3, sample=sample)
    # Four processes may reserve room at once, and each unlinks what the others have open.
    assert len(sizes) > 20 and limit / 2 < max(sizes) <= limit + 4 * SIZE
    assert stats.evictions >= 6 and stats.retries >= 30
    # One at most for every turn of a process, plus what was prefetched and evicted again.
    assert 12 <= stats.misses <= 4 * 12 * 3
    assert len(files_of(cache)) <= 6 + 4


@pytest.mark.flaky(reruns=2)  # within two seconds
def test_a_process_killed_in_the_middle_blocks_nobody(server, tmp_path):
    server.faults[path_of(0)] = ["slow"]
    cache = cache_in(tmp_path, SIZE)
    shard = shard_at(server, path_of(0))
    process = FORK.Process(target=cache.open, args=(shard,))
    process.start()
    deadline = time.monotonic() + 5
    while not server.requests and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert len(files_of(cache)) == 1
    before = time.monotonic()
    cache.open(shard_at(server, path_of(1))).close()  # what is left over takes up all room
    with cache.open(shard) as file:
        assert file.read() == content(0)
    assert time.monotonic() - before < 2


def fork_and_download(cache, shard, pids):
    """A loader worker, forked while its parent's thread downloads, outlives the parent."""
    threading.Thread(target=cache.open, args=(shard,), daemon=True).start()
    while not any((cache.folder / "parts").iterdir()):
        time.sleep(0.01)
    worker = FORK.Process(target=time.sleep, args=(5,))
    worker.start()
    pids.put(worker.pid)
    time.sleep(10)


@pytest.mark.flaky(reruns=2)  # within two seconds
def test_a_worker_that_outlives_a_killed_process_blocks_nobody(server, tmp_path):
    server.faults[path_of(0)] = ["slow"]
    cache, shard, pids = cache_in(tmp_path), shard_at(server, path_of(0)), FORK.Queue()
    process = FORK.Process(target=fork_and_download, args=(cache, shard, pids))
    process.start()
    worker = pids.get(timeout=5)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    before = time.monotonic()
    try:
        with cache.open(shard) as file:
            assert file.read() == content(0)
        assert time.monotonic() - before < 2
    finally:
        os.kill(worker, signal.SIGKILL)
