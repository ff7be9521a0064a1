import os
import queue
import signal
import threading
import time
from contextlib import contextmanager, suppress

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
from support.until import HANG_S

from rwp_dist.data.reader import ShardFiles
from rwp_dist.data.remote import CacheStats, Prefetcher, locks

NUM = 24


@pytest.fixture
def server():
    with FaultyServer({path_of(number): content(number) for number in range(NUM)}) as server:
        yield server


def read_all(cache, shards, passes, seed, go, results):
    go.wait(60)
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
    """What all of them did with the cache; ``sample`` is called now and then, while they pause."""
    go, results = FORK.Event(), FORK.Queue()
    processes = [
        FORK.Process(target=read_all, args=(cache, shards, passes, seed, go, results))
        for seed, shards in enumerate(orders)
    ]
    for process in processes:
        process.start()
    go.set()  # a process forked later would keep open what the server closes
    answers = []
    deadline = time.monotonic() + 120
    while len(answers) < len(processes) and time.monotonic() < deadline:
        with at_rest(processes):
            sample()
        with suppress(queue.Empty):
            answers.append(results.get(timeout=0.01))
    for process in processes:
        process.join(5)
        assert process.exitcode == 0
    assert sum(bad for bad, _ in answers) == 0
    return sum((stats for _, stats in answers), CacheStats())


@contextmanager
def at_rest(processes):
    """Inside, none of them runs, so that several files can be looked at as if at one moment."""
    for process in processes:
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    try:
        yield
    finally:
        for process in processes:
            os.kill(process.pid, signal.SIGCONT)


def shards_of(server, numbers):
    return [(shard_at(server, path_of(number)), content(number)) for number in numbers]


def test_four_processes_download_every_shard_once(server, tmp_path):
    stats = in_four_processes(cache_in(tmp_path), [shards_of(server, range(NUM))] * 4, passes=2)
    assert stats.misses == len(server.requests) == NUM and stats.evictions == 0
    assert stats.bytes_downloaded == NUM * SIZE


def test_four_processes_share_a_cache_of_a_quarter_of_the_size(server, tmp_path):
    limit = NUM // 4 * SIZE + 10
    faults = {path_of(n): ["flip", "truncate", 503, "reset"][n % 4 :] for n in range(NUM)}
    num_faults = sum(map(len, faults.values()))
    server.faults = faults
    cache = cache_in(tmp_path, limit, retries=4, stall_s=30.0)
    orders = [shards_of(server, np.roll(range(NUM), NUM // 4 * turn)) for turn in range(4)]
    sizes = []

    def sample():
        paths = [path for kind in ("parts", "shards") for path in (cache.folder / kind).iterdir()]
        sizes.append(sum(path.stat().st_size for path in paths))

    stats = in_four_processes(cache, orders, passes=2, sample=sample)
    # Each of four readers and four prefetchers may make room for a shard while others do.
    assert limit - SIZE < max(sizes) <= limit + 8 * SIZE
    opens = 4 * 2 * NUM
    assert opens <= stats.hits + stats.misses <= 3 * opens  # two are prefetched at each
    assert stats.misses >= NUM and stats.evictions == stats.misses - len(files_of(cache))
    assert stats.retries == num_faults == len(server.requests) - stats.misses


@pytest.fixture
def no_lock_is_waited_for(monkeypatch):
    def lock_at_once(fd, really=locks._try_lock):
        assert really(fd), "another process holds it"
        return True

    monkeypatch.setattr(locks, "_try_lock", lock_at_once)


def test_a_process_killed_in_the_middle_blocks_nobody(server, tmp_path, no_lock_is_waited_for):
    server.faults[path_of(0)] = ["stall"]
    cache = cache_in(tmp_path, SIZE, stall_s=30.0)
    shard = shard_at(server, path_of(0))
    process = FORK.Process(target=cache.open, args=(shard,))
    process.start()
    assert server.stalled.wait(60)
    process.kill()
    process.join()
    assert len(files_of(cache)) == 1
    cache.open(shard_at(server, path_of(1))).close()  # what is left over takes up all room
    with cache.open(shard) as file:
        assert file.read() == content(0)
    assert [fault for _, fault in server.requests] == ["stall", "ok", "ok"]


def fork_and_download(cache, shard, under_way, pids):
    """A loader worker, forked while its parent's thread downloads, outlives the parent."""
    threading.Thread(target=cache.open, args=(shard,), daemon=True).start()
    under_way.wait(60)
    worker = FORK.Process(target=time.sleep, args=(60,))
    worker.start()
    pids.put(worker.pid)
    time.sleep(3600)


def test_a_worker_that_outlives_a_killed_process_blocks_nobody(
    server, tmp_path, no_lock_is_waited_for
):
    server.faults[path_of(0)] = ["stall"]
    cache, shard = cache_in(tmp_path, stall_s=30.0), shard_at(server, path_of(0))
    under_way, pids = FORK.Event(), FORK.Queue()
    process = FORK.Process(target=fork_and_download, args=(cache, shard, under_way, pids))
    process.start()
    assert server.stalled.wait(60)
    under_way.set()
    worker = pids.get(timeout=HANG_S)
    process.kill()
    process.join()
    try:
        with cache.open(shard) as file:
            assert file.read() == content(0)
    finally:
        os.kill(worker, signal.SIGKILL)
