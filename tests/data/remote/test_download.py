import io
import multiprocessing
import socket
import sys
import time
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from support.faulty_server import STALL_S, FaultyServer
from support.until import HANG_S

from rwp_dist.base.errors import ConfigError, DataError
from rwp_dist.data.remote import Attempts, Patience, download, read_url, size_of
from rwp_dist.data.remote.download import receive

QUICK = Patience(retries=3, backoff_s=0.005, stall_s=0.4)
DATA = np.random.default_rng(0).bytes(300_000)
PATH = "/a/000000.tar"


@pytest.fixture
def server():
    with FaultyServer({PATH: DATA}) as server:
        yield server


def read(url, patience=QUICK, opener=None):
    return read_url(url, attempts=Attempts(url, patience), opener=opener)


def refused(url, *words, error=DataError, **arguments):
    with pytest.raises(error) as caught:
        read(url, **arguments)
    message = str(caught.value)
    assert message.count("\n") == 0 and message.endswith(".")
    for word in words:
        assert str(word) in message
    assert caught.value.cure
    return caught.value


@pytest.mark.parametrize(
    "fault", ["truncate", "stall", "silent", "dribble", "reset", 500, 503, 429, 408]
)
def test_a_fault_is_retried(server, fault):
    server.faults[PATH] = [fault, fault]
    before = time.monotonic()
    assert read(server.url(PATH)) == DATA
    assert time.monotonic() - before < STALL_S
    assert server.asked(PATH)[:3] == [fault, fault, "ok"]


def test_what_is_too_long_is_not_read_to_its_end(server):
    assert read_url(server.url(PATH), most_bytes=len(DATA)) == DATA
    with pytest.raises(DataError, match=r"000000\.tar: it has more than 299 kB; check the address"):
        read_url(server.url(PATH), most_bytes=299_000)
    assert len(server.requests) == 2


def test_any_number_of_failures_has_a_wait():
    assert 0 < Patience(retries=10**6).wait_s(10**6, 0.5) <= Patience().max_backoff_s


@pytest.mark.parametrize("fault", [404, 403, 401, 410])
def test_what_is_not_there_is_not_retried(server, fault):
    server.always[PATH] = fault
    refused(server.url(PATH), PATH, fault)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (500, "answered 500"),
        ("stall", "no byte came for 0.1 s"),
        ("silent", "no byte came"),
        ("dribble", "bytes came in 0.1 s"),
    ],
)
def test_a_lasting_fault_ends_in_one_sentence(server, fault, cause):
    server.always[PATH] = fault
    patience = Patience(retries=2, backoff_s=0.005, stall_s=0.1)
    before = time.monotonic()
    error = refused(server.url(PATH), PATH, "3 attempts", cause, patience=patience)
    assert "data.retries" in error.cure and time.monotonic() - before < STALL_S
    assert len(server.requests) == 3


def test_what_broke_off_is_read_again_from_its_start(server, tmp_path):
    server.faults[PATH] = ["truncate", "truncate"]
    with (tmp_path / "x").open("w+b") as file:
        download(server.url(PATH), file)
        assert file.read() == DATA
    assert server.asked(PATH) == ["truncate", "truncate", "ok"]


def test_the_size_is_told_without_reading(server):
    server.faults[PATH] = [503, "stall"]
    assert size_of(server.url(PATH)) == len(DATA)
    with pytest.raises(DataError, match="404"):
        size_of(server.url("/none"))


class FewBytes(io.BytesIO):
    def read1(self, _):
        return super().read(1)


def test_a_slow_reader_is_no_slow_server(monkeypatch):
    now = 0.0
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr("rwp_dist.data.remote.watchdog.time", clock)
    monkeypatch.setattr(io, "few_bytes", lambda _: FewBytes(b"1234"), raising=False)
    pieces = []
    for piece in receive("mine://x", 60.0, "io:few_bytes"):
        pieces.append(piece)
        now += 50.0
    assert b"".join(pieces) == b"1234"


def test_nobody_there(server):
    server.__exit__()
    refused(server.url(PATH), "no connection", "refused")


def test_an_opener_of_the_users_choice(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(DATA)
    (tmp_path / "my_openers.py").write_text(
        "from pathlib import Path\n"
        f"def mine(url): return (Path({str(tmp_path)!r}) / url.partition('://')[2]).open('rb')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert read("mine://x", opener="my_openers:mine") == DATA
    refused("mine://y", "not there", opener="my_openers:mine")
    for wrong in ("my_openers:other", "no.such:one"):
        error = refused("mine://x", "module:function", error=ConfigError, opener=wrong)
        assert error.key == "data.opener"
    error = refused("mine://x", "mine://x", "nothing here opens")
    assert error.key == "data.opener" and "module:function" in error.cure


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    refused("s3://bucket/x.tar", "s3://", "pip install rwp-dist[cloud]")


def test_s3(monkeypatch):
    pytest.importorskip("s3fs", reason="s3 needs `pip install rwp-dist[cloud]`")
    moto = pytest.importorskip(
        "moto.server", reason="the S3 server needs `pip install moto[server]`"
    )
    import fsspec

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        bucket = fsspec.filesystem("s3")
        bucket.mkdir("shards")
        bucket.pipe("shards/x.tar", DATA * 20)
        check_reading("s3://shards")
    finally:
        server.stop()


def test_gs(monkeypatch):
    pytest.importorskip("gcsfs", reason="gs needs `pip install rwp-dist[cloud]`")
    emulator = pytest.importorskip(
        "gcp_storage_emulator.server", reason="needs `pip install gcp-storage-emulator`"
    )
    import fsspec

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    server = emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket="shards")
    server.start()
    try:
        fsspec.filesystem("gs").pipe("shards/x.tar", DATA * 20)
        check_reading("gs://shards")
    finally:
        server.stop()
        fsspec.get_filesystem_class("gs").clear_instance_cache()


def check_reading(bucket):
    """An object, also in a forked loader worker, its size, and one that is not there."""
    whole = partial(read, f"{bucket}/x.tar", Patience(retries=3, stall_s=10))
    assert whole() == 20 * DATA
    assert size_of(f"{bucket}/x.tar") == 20 * len(DATA)
    # There the parent's connections are of no use.
    fork = multiprocessing.get_context("fork")
    answers = fork.Queue()
    worker = fork.Process(target=lambda: answers.put(whole()))
    worker.start()
    assert answers.get(timeout=HANG_S) == 20 * DATA
    worker.join()
    refused(f"{bucket}/y.tar", f"{bucket}/y.tar", "not there")


def test_waits_grow_and_are_limited():
    patience = Patience(backoff_s=0.5, max_backoff_s=3.0)
    assert [patience.wait_s(n, 1.0) for n in (1, 2, 3, 4, 9)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert patience.wait_s(3, 0.0) == 0.0


def test_a_server_that_names_a_wait_gets_it(monkeypatch):
    waits = []
    monkeypatch.setattr("rwp_dist.data.remote.retry.time.sleep", waits.append)
    Attempts("http://x", Patience(backoff_s=0.0)).failed("503", retry_after_s=0.2)
    assert waits == [0.2]


def test_who_waits_long_is_told_once_what_for(server, capsys):
    server.faults[PATH] = [503] * 5
    assert read(server.url(PATH), patience=Patience(8, backoff_s=0.005)) == DATA
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert PATH in lines[0] and lines[0].endswith("Unavailable; trying again, up to 6 more times.")
    server.faults[PATH] = [503] * 2
    read(server.url(PATH))
    assert capsys.readouterr().err == ""
