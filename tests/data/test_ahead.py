"""An evaluation whose workers begin before it is due has the same batches, and leaves nothing."""

import os
from multiprocessing.context import ForkProcess

import pytest
from support.stream_sets import digest, eval_streams, load, write_set

from rwp_dist.base.errors import DataError
from rwp_dist.data import loader

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return load(write_set(tmp_path_factory.mktemp("set"), num=41))


def steps_of(stream):
    return [digest([step]) for step in stream.steps()]


@pytest.fixture
def started(monkeypatch):
    """Workers, as they start: those that write into a pipe may have ended by the time one looks."""
    found, start = [], ForkProcess.start
    monkeypatch.setattr(ForkProcess, "start", lambda self: (found.append(self), start(self))[1])
    return found


@pytest.mark.parametrize("piped", [False, True])
def test_its_batches_are_the_same_every_time(dataset, piped, monkeypatch, started):
    if piped:
        monkeypatch.setattr(loader, "why_not_shared", lambda *_, **__: "a test says so")
    expected = steps_of(eval_streams(dataset, workers=0)[0])
    [stream] = eval_streams(dataset, workers=2)
    for times in (1, 2):
        stream.begin()
        stream.begin()
        assert len(started) == 2 * times
        assert steps_of(stream) == expected
    assert steps_of(stream) == expected


def test_without_workers_nothing_begins(dataset):
    [stream] = eval_streams(dataset, workers=0)
    stream.begin()
    assert stream.ahead == 0 and stream._begun is None


def test_workers_that_cannot_begin_are_an_error_of_the_evaluation(dataset, monkeypatch):
    def refuse():
        raise BlockingIOError(11, "Resource temporarily unavailable")

    [stream] = eval_streams(dataset, workers=2)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fork", refuse)
        stream.begin()
        with pytest.raises(DataError, match=r"2 worker processes cannot be started"):
            next(stream.steps())
    assert len(steps_of(stream)) == 11


@pytest.mark.parametrize("piped", [False, True])
def test_workers_of_an_evaluation_that_never_comes_end(dataset, piped, monkeypatch, started):
    if piped:
        monkeypatch.setattr(loader, "why_not_shared", lambda *_, **__: "a test says so")
    [stream] = eval_streams(dataset, workers=2)
    stream.begin()
    assert len(started) == 2
    del stream
    for process in started:
        process.join(60)
        assert process.exitcode is not None
