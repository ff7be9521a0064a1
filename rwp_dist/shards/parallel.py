"""One function over many jobs in several processes."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from typing import TypeVar

from rwp_dist.base.errors import DataError

Job = TypeVar("Job")
Result = TypeVar("Result")


def run_jobs(
    function: Callable[[Job], Result],
    jobs: Iterable[Job],
    workers: int,
    preload: Sequence[str] = (),
) -> Iterator[Result]:
    """Yield each job's result as soon as it is there; with 1 worker in this process, in order.

    ``function`` is importable. The first exception stops jobs that have not begun. Workers end
    with this process, also when it is killed. ``preload`` names slow modules, to be imported once
    and not again by each worker.

    Raises:
        DataError: the operating system killed a worker.
    """
    jobs = list(jobs)
    if workers <= 1 or len(jobs) <= 1:
        yield from map(function, jobs)
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *preload])
    pool = ProcessPoolExecutor(
        min(workers, len(jobs)), mp_context=context, initializer=_follow_parent
    )
    try:
        for future in as_completed([pool.submit(function, job) for job in jobs]):
            yield future.result()
    except BrokenProcessPool as error:
        raise DataError(
            "A worker process was killed, most likely for want of memory; "
            "run again with fewer --workers: what is finished is kept."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _follow_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told too, and says so once
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
