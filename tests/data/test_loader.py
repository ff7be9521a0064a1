"""Workers on machines that lack what torch's loader needs: the same batches, or one sentence."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.small_shards import FORK
from support.stream_sets import digests, load, train_streams, write_set
from support.until import HANG_S, until

from rwp_dist.base.errors import DataError
from rwp_dist.data import loader, room
from rwp_dist.data.reader import ShardFiles
from rwp_dist.process import limits, sockets
from rwp_dist.process.signals import StopSignals

STEPS = 6

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return load(write_set(tmp_path_factory.mktemp("set") / "train"))


@pytest.fixture(scope="module")
def reference(dataset):
    return digests(dataset, 0, STEPS)


def through_pipes(monkeypatch, why="they are asked to"):
    monkeypatch.setattr(loader, "why_not_shared", lambda *_, **__: why)


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_batches_are_the_same_through_pipes(dataset, reference, workers, monkeypatch):
    shared = [step.batches[0] for step in train_streams(dataset, 1, 1)[0].steps(0, 2)]
    through_pipes(monkeypatch)
    assert digests(dataset, 0, STEPS, 1, workers) == reference
    piped = [step.batches[0] for step in train_streams(dataset, 1, 1)[0].steps(0, 2)]
    for one, other in zip(shared, piped, strict=True):
        for name in ("images", "labels", "weights"):
            ours, theirs = getattr(one, name), getattr(other, name)
            assert (ours.dtype, ours.stride()) == (theirs.dtype, theirs.stride())
    until(lambda: not FORK.active_children(), "the end of all workers")


def test_without_semaphores_or_shared_memory_batches_go_through_pipes(
    dataset, reference, monkeypatch, capsys
):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", refuse)
    loader._say_once.cache_clear()
    for _ in range(2):
        assert digests(dataset, 0, STEPS, 1, 2) == reference
    assert capsys.readouterr().err == (
        "Workers hand their batches over in pipes, which takes longer: /dev/shm is of no use "
        "(Permission denied).\n"
    )


def why_not(step_bytes=1000):
    return room.why_not_shared(step_bytes, prefetch=2, workers=4, ranks=2)


def test_it_is_said_what_a_machine_lacks(monkeypatch):
    assert why_not() is None
    monkeypatch.setattr(room, "shared_memory_left", lambda: 64 << 20)
    assert why_not() is None
    assert why_not(10**7) == "/dev/shm has 67.1 MB free, and workers need 241 MB"
    monkeypatch.setattr(room, "open_files", lambda: 140)
    assert why_not() == "140 files may be open at once (ulimit -n), and a rank needs 148"
    monkeypatch.setattr(room, "can_make_sockets", lambda: False)
    assert "sockets" in why_not()


def test_shared_memory_that_fills_up_meanwhile_is_a_sentence(dataset, monkeypatch):
    def full(*_, **__):
        raise RuntimeError("unable to allocate shared memory(shm)")

    monkeypatch.setattr("torch.UntypedStorage._share_fd_cpu_", full)
    with pytest.raises(DataError, match=r"^workers that read the data failed"):
        digests(dataset, 0, STEPS, 1, 2)


TRAINING = """
import sys
from support.stream_sets import digests, load
print(*digests(load({folder!r}), 0, 6, 1, 2))
"""


def test_a_long_tmpdir_holds_no_socket_and_workers_need_none_there(dataset, reference, tmp_path):
    """Without a folder of their own, workers hang: this would end by its timeout."""
    folder = tmp_path / ("x" * 90)
    folder.mkdir()
    program = TRAINING.format(folder=str(Path(dataset.shards[0].url).parent))
    tests = str(Path(__file__).parents[1])
    path = os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"TMPDIR": str(folder), "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert done.stdout.split() == reference, done.stderr
    assert done.stderr == "" and not list(folder.iterdir())


def test_a_folder_for_sockets_that_is_gone_is_noticed(monkeypatch, tmp_path):
    monkeypatch.setattr("multiprocessing.util.get_temp_dir", lambda: str(tmp_path))
    assert sockets.can_make_sockets()
    tmp_path.rmdir()
    assert not sockets.can_make_sockets()


@pytest.mark.parametrize("piped", [False, True])
def test_a_killed_worker_is_a_sentence(dataset, piped, monkeypatch):
    if piped:
        through_pipes(monkeypatch)
    steps = train_streams(dataset, 1, 1)[0].steps(0, 1000)
    next(steps)
    (worker,) = FORK.active_children()
    worker.kill()
    with pytest.raises(DataError, match=r"worker.*kernel log"):
        for _ in steps:
            pass


@pytest.mark.parametrize("kind", [ConnectionResetError, FileNotFoundError, EOFError])
def test_so_it_is_if_it_dies_while_a_batch_is_fetched_from_it(dataset, kind, monkeypatch):
    def reset(*_):
        raise kind

    steps = train_streams(dataset, 1, 1)[0].steps(0, 1000)
    next(steps)
    monkeypatch.setattr("multiprocessing.resource_sharer.DupFd.detach", reset)
    with pytest.raises(DataError, match=r"worker.*killed.*kernel log"):
        for _ in steps:
            pass


def test_the_death_of_a_worker_is_told_where_it_is_waited_for_and_nowhere_else(dataset):
    """torch tells of it in whatever the rank does just then: in the middle of a backward pass."""
    steps = train_streams(dataset, 1, 1)[0].steps(0, 1000)
    next(steps)
    (worker,) = FORK.active_children()
    worker.kill()
    os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
    signal.raise_signal(signal.SIGCHLD)  # certain to be handled here
    assert not FORK.active_children()  # as an evaluation in between does: torch cannot find it now
    with pytest.raises(DataError, match=r"worker.*kernel log"):
        for _ in steps:
            pass


def broken(*_, **__):
    raise ZeroDivisionError("an error of ours")


@pytest.mark.parametrize("piped", [False, True])
def test_an_error_in_a_worker_has_its_traceback(dataset, piped, monkeypatch):
    if piped:
        through_pipes(monkeypatch)
    monkeypatch.setattr("rwp_dist.data.worker.StepReader._load", broken)
    kinds = ZeroDivisionError, RuntimeError
    with pytest.raises(kinds, match=r"in broken(.|\n)*an error of ours"):
        next(train_streams(dataset, 1, 1)[0].steps(0, 9))


def test_workers_that_cannot_be_forked_are_a_sentence(dataset, monkeypatch):
    def refuse():
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    with pytest.raises(DataError, match=r"2 worker processes cannot be started.*data\.workers"):
        digests(dataset, 0, STEPS, 1, 2)


def test_workers_without_a_thread_for_signals_are_a_sentence(dataset, monkeypatch):
    rank, start = os.getpid(), threading.Thread.start

    def refuse(thread):
        if os.getpid() != rank:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(DataError, match=r"2 worker processes cannot be started.*data\.workers"):
        digests(dataset, 0, STEPS, 1, 2)


def hang(*_, **__):
    threading.Event().wait(60)


@pytest.mark.parametrize("piped", [False, True])
def test_workers_that_give_nothing_are_a_sentence(dataset, piped, monkeypatch):
    if piped:
        through_pipes(monkeypatch)
    monkeypatch.setattr("rwp_dist.data.worker.StepReader._load", hang)
    monkeypatch.setattr(loader, "QUIET_S", 0.2)
    with pytest.raises(DataError, match=r"workers.*\(dmesg\)|workers.*disk or server"):
        next(train_streams(dataset, 1, 1)[0].steps(0, 9))


def test_a_signal_ends_the_wait_for_samples_that_never_come():
    with StopSignals() as signals:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        begin = time.monotonic()
        assert signals.wait(hang) is None
        assert signals.asked and time.monotonic() - begin < 30
        assert signals.wait(broken) is None, "nor does it wait again"


def test_the_limit_of_open_files_is_raised_as_far_as_it_may_be(monkeypatch):
    given = []
    monkeypatch.setattr(limits.resource, "getrlimit", lambda which: (1024, 4096))
    monkeypatch.setattr(limits.resource, "setrlimit", lambda which, both: given.append(both))
    limits.raise_open_files()
    assert given == [(4096, 4096)]
    monkeypatch.setattr(limits.resource, "getrlimit", lambda which: (4096, 4096))
    limits.raise_open_files()
    assert given == [(4096, 4096)]


def test_fewer_shards_are_open_where_few_files_may_be(monkeypatch):
    assert ShardFiles()._max_open == 128
    monkeypatch.setattr("rwp_dist.data.reader.open_files", lambda: 64)
    assert ShardFiles()._max_open == 16


def test_small_batches_take_whole_pages_beside_the_locks(monkeypatch):
    monkeypatch.setattr(room, "shared_memory_left", lambda: 64 << 10)
    why = room.why_not_shared(16_576, prefetch=2, workers=1, ranks=1)
    assert why is not None and "65.5 kB free" in why
