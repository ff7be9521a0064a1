"""One function over many jobs in several processes."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import chain, islice
from multiprocessing import forkserver
from typing import Any, TypeVar

from rwp_dist.base.errors import DataError
from rwp_dist.process.sockets import can_make_sockets
from rwp_dist.process.worker import follow_parent

Job = TypeVar("Job")
Result = TypeVar("Result")

JOBS_AHEAD = 2
"""Of each worker: one that it does, and the next."""


def run_jobs(
    function: Callable[[Job], Result], jobs: Iterable[Job], workers: int
) -> Iterator[Result]:
    """Yield each result as soon as it is there; with one worker in this process and in order.

    Jobs are taken when a worker will soon be free, so they may be made one by one. The function is
    sent once to each worker, with all that it holds. The first exception stops jobs that have not
    begun. Workers end with this process, even if it is killed.

    Args:
        function: importable by the workers; or a ``partial`` of one.
        jobs: its arguments.
        workers: number of processes.

    Raises:
        DataError: workers cannot be started, or the operating system killed one.
    """
    rest = iter(jobs)
    first = list(islice(rest, 2))
    rest = chain(first, rest)
    if workers <= 1 or len(first) <= 1:
        yield from map(function, rest)
        return
    pool = _pool(function, workers)
    running = set[Future[Result]]()
    try:
        while True:
            running |= _submit(pool, list(islice(rest, JOBS_AHEAD * workers - len(running))))
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    except BrokenProcessPool as error:
        raise DataError(
            "a worker process was killed, most likely because memory ran out",
            cure="run again with fewer --workers: what is finished is kept",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def prepare_workers(module: str) -> None:
    """Have the process that workers are forked from import the module of their function.

    That goes on beside this process, so it is worth a call before something else that takes time.

    Raises:
        DataError: it cannot be started.
    """
    multiprocessing.set_forkserver_preload([__name__, module])
    can_make_sockets()  # or the fork server says what is wrong
    try:
        forkserver.ensure_running()
    except OSError as error:  # no place for sockets, too few files or processes
        raise _cannot_start(error) from error


def _pool(function: Callable[[Job], Result], workers: int) -> ProcessPoolExecutor:
    whole = function.func if isinstance(function, partial) else function
    prepare_workers(whole.__module__)
    context = multiprocessing.get_context("forkserver")
    try:
        return ProcessPoolExecutor(
            workers, mp_context=context, initializer=_begin, initargs=(function,)
        )
    except OSError as error:  # no semaphores
        raise _cannot_start(error) from error


def _submit(pool: ProcessPoolExecutor, jobs: Sequence[Any]) -> set[Future[Any]]:
    """Have jobs done, and start workers for them."""
    try:
        return {pool.submit(_work, job) for job in jobs}
    except OSError as error:  # too few files or processes
        raise _cannot_start(error) from error


def _cannot_start(error: OSError) -> DataError:
    return DataError(
        f"worker processes cannot be started ({error.strerror or error})",
        cure="run again with --workers 1, which needs none",
    )


_function: Callable[[Any], Any]
"""Of this worker."""


def _begin(function: Callable[[Any], Any]) -> None:
    """What a worker does first."""
    global _function
    follow_parent()
    _function = function


def _work(job: Any) -> Any:
    return _function(job)
