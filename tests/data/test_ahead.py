"""An evaluation whose workers begin before it is due has the same batches, and leaves nothing."""

import multiprocessing
import os

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


@pytest.mark.parametrize("piped", [False, True])
def test_its_batches_are_the_same_every_time(dataset, piped, monkeypatch):
    if piped:
        monkeypatch.setattr(loader, "why_not_shared", lambda *_, **__: "a test says so")
    expected = steps_of(eval_streams(dataset, workers=0)[0])
    [stream] = eval_streams(dataset, workers=2)
    for _ in range(2):
        stream.begin()
        begun = set(multiprocessing.active_children())
        stream.begin()
        assert len(begun) == 2 and set(multiprocessing.active_children()) == begun
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
def test_workers_of_an_evaluation_that_never_comes_end(dataset, piped, monkeypatch):
    if piped:
        monkeypatch.setattr(loader, "why_not_shared", lambda *_, **__: "a test says so")
    before = set(multiprocessing.active_children())
    [stream] = eval_streams(dataset, workers=2)
    stream.begin()
    begun = set(multiprocessing.active_children()) - before
    assert len(begun) == 2
    del stream
    for process in begun:
        process.join(60)
        assert process.exitcode is not None
