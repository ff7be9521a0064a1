"""Worker processes around an ``ItemReader``: how they start, and which signals they obey.

torch's DataLoader moves batches through shared memory, without a copy. A machine may give too
little of it, as Docker with its 64 MB does, or no semaphores, few open files, no place for sockets.
Then each worker writes into a pipe of its own, which needs none of these.
"""

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from multiprocessing.connection import Connection
from multiprocessing.context import ForkContext
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from types import FrameType
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader

from rwp_dist.base.errors import DataError
from rwp_dist.base.parent import end_with_parent
from rwp_dist.data.room import batch_bytes, why_not_shared
from rwp_dist.data.worker import ItemReader, Loaded, Lost, Reading
from rwp_dist.process import torchrun

WORKER_START_S, WORKER_STARTS = 60.0, 3
"""How long a worker may take to begin, and how often workers are started until all have begun."""

QUIET_S = 3600.0
"""How long workers may have nothing to give: an hour of a dead disk or server."""

END_S = 5.0
"""How long a worker may take to end before it is killed."""

_hears_deaths = False
"""Whether the end of a worker may raise just now."""

Begin = Callable[[int], None]
"""What runs first in every worker, with its number."""
Items = Iterator[Loaded | Lost]


def load(reader: ItemReader, reading: Reading, num_steps: int, samples: int) -> Items:
    """The items of a reader in the order of the steps, of which there are ``num_steps``.

    Args:
        reader: what reads them.
        reading: with how many processes.
        num_steps: number of steps.
        samples: most samples of one of them.

    Raises:
        DataError: worker processes cannot start, did not begin, died or give nothing.
    """
    workers = min(reading.workers, num_steps)
    if not workers:
        items = reader.items(0, 1)
        return map(_pinned, items) if reading.pin else items
    why = why_not_shared(
        batch_bytes(samples, reading.size, reading.channels),
        prefetch=reading.prefetch,
        workers=workers,
        ranks=torchrun.ranks_here(),
    )
    if why:
        _say_once(f"Workers hand their batches over in pipes, which takes longer: {why}.")
    start = _through_pipes if why else _through_memory
    return _guarded(*_started(start, reader, reading, workers))


def _started(
    start: Callable[[ItemReader, Reading, int, Begin, ForkContext], Items],
    reader: ItemReader,
    reading: Reading,
    workers: int,
) -> tuple[Items, set[BaseProcess]]:
    """The items, and the processes that read them."""
    # Forked, so that index and plan are shared and not copied.
    fork = multiprocessing.get_context("fork")
    for _ in range(WORKER_STARTS):
        before = set(multiprocessing.active_children())
        begun, theirs = fork.Pipe(duplex=False)
        items = None
        try:
            items = start(reader, reading, workers, partial(_begin, theirs), fork)
            with _hearing_deaths():
                if all(begun.poll(WORKER_START_S) and begun.recv_bytes() for _ in range(workers)):
                    return items, set(multiprocessing.active_children()) - before
        except (OSError, RuntimeError) as error:  # the latter: one that had begun has died
            _kill(set(multiprocessing.active_children()) - before)
            cause = getattr(error, "strerror", None) or str(error).partition(".")[0]
            raise DataError(
                f"{workers} worker processes cannot be started ({cause})",
                cure="lower data.workers, or raise the limit (ulimit -u and -n; docker run "
                "--pids-limit=-1 --ulimit nofile=65536)",
            ) from error
        finally:
            begun.close()
            theirs.close()
        # Before Python 3.12 a child can hang inside fork itself, if another thread of the parent
        # (gloo's, as it releases a tensor) just then holds the interpreter's list of threads.
        started = set(multiprocessing.active_children()) - before
        del items  # ends the workers that have begun; a hanging one does not even hear signals
        _kill(started)
    raise DataError(
        f"{workers} worker processes did not begin in {WORKER_STARTS} times {WORKER_START_S:.0f} s",
        cure="start the same command again, or set data.workers=0",
    )


def _through_memory(
    reader: ItemReader, reading: Reading, workers: int, begin: Begin, fork: ForkContext
) -> Items:
    # torch warns of more workers than cores when a loader is made and when it starts. ``auto``
    # never asks for so many, and who names a number means it.
    warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
    items = iter(
        DataLoader(
            reader,
            batch_size=None,
            pin_memory=reading.pin,
            num_workers=workers,
            prefetch_factor=reading.prefetch,
            timeout=QUIET_S,
            worker_init_fn=begin,
            multiprocessing_context=fork,
        )
    )
    _hold_deaths_back()
    return items


def _hold_deaths_back() -> None:
    """Have torch's handler of SIGCHLD raise only where workers are waited for.

    It would raise the death of a worker in whatever the rank does just then.
    """
    if threading.current_thread() is not threading.main_thread():  # torch sets none either
        return
    before = signal.getsignal(signal.SIGCHLD)
    if not callable(before) or hasattr(before, "holds_back"):
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if _hears_deaths:
            before(number, frame)

    handle.holds_back = True  # type: ignore[attr-defined]
    signal.signal(signal.SIGCHLD, handle)


@contextmanager
def _hearing_deaths() -> Iterator[None]:
    """Raise in this block if a worker dies."""
    global _hears_deaths
    _hears_deaths = True
    try:
        yield
    finally:
        _hears_deaths = False


def _refuse_dead(workers: set[BaseProcess]) -> None:
    """Raise what torch would, of a worker that died while nobody waited for it."""
    for worker in workers:
        if worker.exitcode:
            why = f"exit code {worker.exitcode}"
            if worker.exitcode < 0:
                why = f"killed by signal {-worker.exitcode}"
            raise RuntimeError(f"DataLoader worker (pid {worker.pid}) has ended: {why}")


def _guarded(items: Items, workers: set[BaseProcess]) -> Items:
    """The same, with the errors of torch's loader as those of a user."""
    while True:
        try:
            with _hearing_deaths():
                _refuse_dead(workers)
                item = next(items, None)
        except RuntimeError as error:
            problem = str(error).partition("\n")[0].rstrip(".")
            if not problem.startswith("DataLoader"):  # one that a worker raised
                raise
            raise DataError(
                f"workers that read the data failed ({problem})",
                cure="see this machine's kernel log (dmesg) for memory that ran out; with "
                "data.workers=0 there are none",
            ) from error
        except (EOFError, ConnectionError, FileNotFoundError) as error:
            if str(error).startswith("Caught "):  # one that a worker raised
                raise
            raise _was_killed() from None  # as the rank fetched a batch from it
        if item is None:
            return
        yield item


def _was_killed() -> DataError:
    return DataError(
        "a worker that reads the data was killed, most likely because memory ran out",
        cure="see this machine's kernel log (dmesg); with data.workers=0 there are none",
    )


class _Failed(NamedTuple):
    """An error that no worker should have."""

    text: str


def _through_pipes(
    reader: ItemReader, reading: Reading, workers: int, begin: Begin, fork: ForkContext
) -> Items:
    """Start the workers; yield what they write, in turns."""
    pipes: list[Connection] = []
    processes = []
    for worker in range(workers):
        ours, theirs = fork.Pipe(duplex=False)
        work = (reader, worker, workers, theirs, begin)
        process = fork.Process(target=_write_all, args=work, daemon=True)
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)

    def items() -> Items:
        try:
            while True:
                for pipe in pipes:
                    if not pipe.poll(QUIET_S):
                        raise DataError(
                            f"workers gave no batch for {QUIET_S:.0f} s",
                            cure="see whether the disk or server of the data answers",
                        )
                    item = _unpacked(pipe.recv_bytes())
                    if item is None:
                        return
                    if isinstance(item, _Failed):
                        raise RuntimeError(item.text)
                    yield _pinned(item) if reading.pin else item
        except (EOFError, ConnectionError):
            raise _was_killed() from None
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.join(END_S)
            _kill(set(processes))

    return items()


def _write_all(
    reader: ItemReader, worker: int, workers: int, pipe: Connection, begin: Begin
) -> None:
    """A worker's whole life: write all of its items, and None at their end."""
    torch.set_num_threads(1)
    begin(worker)
    try:
        for item in reader.items(worker, workers):
            pipe.send_bytes(_packed(item))
        pipe.send_bytes(_packed(None))
    except Exception:
        pipe.send_bytes(_packed(_Failed(traceback.format_exc())))
    pipe.close()


def _packed(item: Loaded | Lost | _Failed | None) -> bytes:
    """Bytes of an item, with arrays in place of tensors, which would take ten times as long."""
    if isinstance(item, Loaded):
        images = item.images.permute(0, 2, 3, 1)  # as they lie in memory
        arrays = [tensor.numpy() for tensor in (images, item.labels, item.weights)]
        return pickle.dumps((item.step, *arrays, *item[4:]), 5)
    return pickle.dumps(item)


def _unpacked(data: bytes) -> Loaded | Lost | _Failed | None:
    item = pickle.loads(data)
    if type(item) is not tuple:
        found: Lost | _Failed | None = item
        return found
    step, *arrays, bad, num_bytes, cache = item
    images, labels, weights = map(torch.from_numpy, arrays)
    return Loaded(step, images.permute(0, 3, 1, 2), labels, weights, bad, num_bytes, cache)


def _pinned(item: Loaded | Lost) -> Loaded | Lost:
    if isinstance(item, Lost):
        return item
    tensors = {name: getattr(item, name).pin_memory() for name in ("images", "labels", "weights")}
    return item._replace(**tensors)


def _kill(processes: set[BaseProcess]) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        process.join()


@lru_cache
def _say_once(text: str) -> None:
    if torchrun.rank() == 0:
        print(text, file=sys.stderr, flush=True)


def _begin(begun: Connection, worker: int) -> None:
    """Runs first in every worker, which from then on obeys only its rank.

    Ctrl-C and Slurm's signals reach workers too, but the rank decides when to stop. If the rank is
    killed, its workers end too, also while they wait for a server.
    """
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    # torch ends its workers with SIGTERM. scancel sends it to every process of a job, and a worker
    # that is lost would fail the rank while it saves.
    if sys.platform == "linux":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey_sigterm_of, args=(os.getppid(),), daemon=True).start()
    else:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent()
    # A batch for which shared memory lacks would be lost, and the rank would wait for it.
    Queue._on_queue_feeder_error = staticmethod(_end)  # type: ignore[attr-defined]
    begun.send_bytes(b"begun")


def _end(error: Exception, item: object) -> None:
    print(f"A worker cannot hand over a batch: {error}", file=sys.stderr, flush=True)
    os._exit(1)


def _obey_sigterm_of(rank: int) -> None:
    if sys.platform == "linux":
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != rank:
            pass
        os._exit(128 + signal.SIGTERM)
