"""Processes that write shards, also on machines that give them little."""

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.until import HANG_S

from rwp_dist.base.errors import DataError
from rwp_dist.shards.parallel import JOBS_AHEAD, run_jobs

JOBS = """
from rwp_dist.shards.parallel import run_jobs
if __name__ == "__main__":
    print(*sorted(run_jobs(str, range(3), 2)))
"""


def test_a_long_tmpdir_is_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 90)
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", JOBS],
        env=os.environ | {"TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert (done.stdout, done.stderr) == ("0 1 2\n", "")


def test_without_semaphores_the_error_has_a_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", refuse)
    with pytest.raises(DataError, match=r"cannot be started \(No space.*--workers 1"):
        list(run_jobs(str, range(3), 2))


class Pickled:
    """Counts in a file how often it is sent."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        with self.path.open("a") as file:
            file.write("x")
        return (Pickled, (self.path,))


def add(_: Pickled, number: int) -> int:
    if number < 0:
        raise DataError(f"{number} is below 0", cure="give more")
    return number + 1


def test_what_all_jobs_need_is_sent_once_to_each_worker(tmp_path: Path) -> None:
    function = partial(add, Pickled(tmp_path / "sent"))
    assert sorted(run_jobs(function, range(50), 2)) == list(range(1, 51))
    assert len((tmp_path / "sent").read_text()) <= 2


def test_jobs_are_made_when_a_worker_will_soon_be_free(tmp_path: Path) -> None:
    made = 0

    def jobs() -> Iterator[int]:
        nonlocal made
        for _ in range(30):
            made += 1
            yield made

    done = 0
    for _ in run_jobs(partial(add, Pickled(tmp_path / "sent")), jobs(), 2):
        done += 1
        assert made <= done + 2 * JOBS_AHEAD + 1
    assert done == 30


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_exception_stops_jobs_that_have_not_begun(tmp_path: Path, workers: int) -> None:
    function = partial(add, Pickled(tmp_path / "sent"))
    jobs = iter([1, 2, 3, -1, *range(100)])
    with pytest.raises(DataError, match="-1 is below 0; give more"):
        list(run_jobs(function, jobs, workers))
    assert len(list(jobs)) >= 90


def test_a_worker_that_is_killed_is_one_sentence() -> None:
    with pytest.raises(DataError, match="was killed, most likely because memory ran out"):
        list(run_jobs(os._exit, range(9, 15), 2))
