"""One function over many jobs in several processes."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from rwp_dist.base.errors import DataError
from rwp_dist.process.sockets import can_make_sockets
from rwp_dist.process.worker import follow_parent

Job = TypeVar("Job")
Result = TypeVar("Result")


def run_jobs(
    function: Callable[[Job], Result],
    jobs: Iterable[Job],
    workers: int,
    preload: Sequence[str] = (),
) -> Iterator[Result]:
    """Yield each result as soon as it is there; with one worker in this process and in order.

    The first exception stops jobs that have not begun. Workers end with this process, even if it
    is killed.

    Args:
        function: importable by the workers.
        jobs: its arguments.
        workers: number of processes.
        preload: slow modules, which are imported once instead of by each worker.

    Raises:
        DataError: workers cannot be started, or the operating system killed one.
    """
    jobs = list(jobs)
    if workers <= 1 or len(jobs) <= 1:
        yield from map(function, jobs)
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *preload])
    can_make_sockets()  # or the fork server says what is wrong
    try:
        pool = ProcessPoolExecutor(
            min(workers, len(jobs)), mp_context=context, initializer=follow_parent
        )
        futures = [pool.submit(function, job) for job in jobs]
    except OSError as error:  # no semaphores, no place for sockets, too few files or processes
        raise DataError(
            f"worker processes cannot be started ({error.strerror or error})",
            cure="run again with --workers 1, which needs none",
        ) from error
    try:
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        raise DataError(
            "a worker process was killed, most likely because memory ran out",
            cure="run again with fewer --workers: what is finished is kept",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
