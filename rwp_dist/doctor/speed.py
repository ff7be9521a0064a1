"""How many images a second this machine can read, decode and augment."""

import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import torch

from rwp_dist.base.errors import DataError
from rwp_dist.base.urls import shown
from rwp_dist.config import Settings
from rwp_dist.data.format.index import Index
from rwp_dist.data.image import TrainTransform, UndecodableImage
from rwp_dist.data.open import open_dataset, transform_of
from rwp_dist.data.reader import BadSample, ShardFiles
from rwp_dist.data.remote import Shard
from rwp_dist.process.cgroup import cores as usable_cores
from rwp_dist.process.sockets import can_make_sockets
from rwp_dist.process.worker import follow_parent

MEASURED_S = 2.0
LIMIT_S = 120.0
"""Time that the processes of all cores have to start, import torch and measure."""


@dataclass(frozen=True)
class OneShard:
    """What each process reads, and how. The shard is opened where it is read."""

    files: ShardFiles
    shard: Shard
    index: Index
    transform: TrainTransform
    rows: Sequence[int]
    """Of the images that are read."""

    def image(self, row: int, seed: int = 0, draw: int = 0) -> None:
        """Read one image and augment it.

        Raises:
            BadSample: it is not what the index describes.
            UndecodableImage: it cannot be decoded.
        """
        self.transform(self.files.view(self.shard, self.index, row), (seed, draw, row))

    def good(self) -> list[int]:
        """The rows whose image can be read."""
        return [row for row in self.rows if self._is_good(row)]

    def _is_good(self, row: int) -> bool:
        try:
            self.image(row)
        except (BadSample, UndecodableImage):
            return False
        return True

    def measure(self, seconds: float, seed: int) -> tuple[int, float]:
        """Go through the images for ``seconds``: number of images done, CPU seconds taken."""
        torch.set_num_threads(1)
        count, begin, cpu = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - begin < seconds:
            self.image(self.rows[count % len(self.rows)], seed, count)
            count += 1
        return count, max(time.process_time() - cpu, 1e-9)


def images_per_second(
    settings: Settings, seconds: float = MEASURED_S, limit_s: float = LIMIT_S
) -> dict[str, Any]:
    """Read and augment one shard of the training data, with one core and then with all.

    All cores are measured together, because they share memory and, as hyper-threads, each other.
    Each of the two measurements takes ``seconds``; the second may take ``limit_s`` with the start
    of its processes.

    Returns:
        ``shard``, its ``images`` and how many of them are ``bad``, the mean ``bytes_per_image``,
        the ``decoder``, ``images_per_s_core``, ``cores`` and ``images_per_s`` of all cores.

    Raises:
        DataError: the data cannot be read, no image of the shard can, or a process was killed or
            did not end in time.
    """
    cache, dataset = open_dataset(settings, "data.train")
    shard, index, transform = dataset.shards[0], dataset.rows_of(0), transform_of(settings)
    whole = OneShard(ShardFiles(1, cache), shard, index, transform, range(len(index)))
    readable = replace(whole, rows=whole.good())
    if not readable.rows:
        raise DataError(
            f"{shown(shard.url)}: no image of this shard can be read",
            cure="see why: `rwp-dist shards verify`",
        )
    cores = usable_cores()
    count, cpu_s = readable.measure(seconds, 0)
    whole.files.close()
    return {
        "shard": shard.url,
        "images": len(index),
        "bad": len(index) - len(readable.rows),
        "bytes_per_image": int(index["size"].mean()),
        "decoder": transform.decoder.tier,
        "images_per_s_core": count / cpu_s,
        "cores": cores,
        "images_per_s": _together(readable, cores, seconds, limit_s) / seconds,
    }


def _together(readable: OneShard, cores: int, seconds: float, limit_s: float) -> int:
    """Number of images that all cores do in the same ``seconds``."""
    # Not forked from this process: a lock that another of its threads holds would stay held.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    can_make_sockets()
    end = time.monotonic() + limit_s
    workers, connections = [], []
    try:
        for seed in range(cores):
            ours, theirs = context.Pipe()
            work = (theirs, readable, seconds, seed)
            worker = context.Process(target=_work, args=work, daemon=True)
            worker.start()
            theirs.close()
            workers.append(worker)
            connections.append(ours)
        for connection in connections:
            _answer(connection, end)
        for connection in connections:
            connection.send("go")
        return sum(_answer(connection, end) for connection in connections)
    except (EOFError, ConnectionError):
        raise DataError(
            f"one of {cores} processes that read a shard was killed, most likely as memory ran out",
            cure="see this machine's kernel log (dmesg) and what else runs here",
        ) from None
    except TimeoutError:
        raise DataError(
            f"{cores} processes did not read a shard within {limit_s:.0f} s",
            cure="see this machine's kernel log (dmesg), its disks and what else runs here",
        ) from None
    finally:
        for worker in workers:
            worker.kill()


def _work(parent: Connection, readable: OneShard, seconds: float, seed: int) -> None:
    """Say that it is ready, wait until all are, send the number of images done."""
    follow_parent()
    try:
        readable.image(readable.rows[0])
        parent.send(0)
        parent.recv()
        parent.send(readable.measure(seconds, seed)[0])
    except Exception as error:
        parent.send(error)


def _answer(worker: Connection, end: float) -> int:
    """What a worker sends until ``end``.

    Raises:
        EOFError, ConnectionError: it was killed.
        TimeoutError: it sends nothing.
        Exception: the one that it failed with.
    """
    if not worker.poll(max(0.0, end - time.monotonic())):
        raise TimeoutError
    answer: int | Exception = worker.recv()
    if isinstance(answer, Exception):
        raise answer
    return answer
