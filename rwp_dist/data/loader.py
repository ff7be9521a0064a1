"""Worker processes around a ``StepReader``: how they start, and which signals they obey."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from functools import partial
from multiprocessing.synchronize import Semaphore

from torch.utils.data import DataLoader

from rwp_dist.base.errors import DataError
from rwp_dist.data.worker import Loaded, Lost, Reading, StepReader
from rwp_dist.process.rank import end_with_parent

WORKER_START_S, WORKER_STARTS = 60.0, 3
"""How long a worker may take to begin, and how often workers are started until all have begun."""


def load(reader: StepReader, reading: Reading, num_steps: int) -> Iterator[Loaded | Lost]:
    """The items of a reader in the order of the steps, of which there are ``num_steps``.

    Raises:
        DataError: worker processes did not begin.
    """
    workers = min(reading.workers, num_steps)
    loader = partial(DataLoader, reader, batch_size=None, pin_memory=reading.pin)
    if not workers:
        return iter(loader())
    # Forked, so that index and plan are shared and not copied.
    fork = multiprocessing.get_context("fork")
    for _ in range(WORKER_STARTS):
        before = set(multiprocessing.active_children())
        begun = fork.Semaphore(0)
        items = iter(
            loader(
                num_workers=workers,
                prefetch_factor=reading.prefetch,
                worker_init_fn=partial(_begin, begun),
                multiprocessing_context=fork,
            )
        )
        if all(begun.acquire(timeout=WORKER_START_S) for _ in range(workers)):
            return items
        # Before Python 3.12 a child can hang inside fork itself, if another thread of the parent
        # (gloo's, as it releases a tensor) just then holds the interpreter's list of threads.
        started = set(multiprocessing.active_children()) - before
        del items  # ends the workers that have begun; a hanging one does not even hear signals
        for process in started:
            process.kill()
            process.join()
    raise DataError(
        f"{workers} worker processes did not begin in {WORKER_STARTS} times {WORKER_START_S:.0f} s",
        cure="start the same command again, or set data.workers=0",
    )


def _begin(begun: Semaphore, worker: int) -> None:
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
    begun.release()


def _obey_sigterm_of(rank: int) -> None:
    if sys.platform == "linux":
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != rank:
            pass
        os._exit(128 + signal.SIGTERM)
