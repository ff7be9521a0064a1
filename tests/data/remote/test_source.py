import io
import multiprocessing
import os
import socket
import sys
import time
from functools import partial

import numpy as np
import pytest
from support.faulty_server import FaultyServer

from rwp_dist.base.errors import DataError
from rwp_dist.data.remote.source import Attempts, Patience, local_path, open_url, read_chunks, shown

QUICK = Patience(retries=3, backoff_s=0.005, stall_s=0.4)
DATA = np.random.default_rng(0).bytes(300_000)
PATH = "/a/000000.tar"


@pytest.fixture
def server():
    with FaultyServer({PATH: DATA}) as server:
        yield server


def refused(url, *words, **arguments):
    with pytest.raises(DataError) as caught:
        open_url(url, **{"patience": QUICK, **arguments})
    message = str(caught.value)
    assert message.count("\n") == 0 and message.endswith(".")
    for word in words:
        assert str(word) in message
    return message


@pytest.mark.parametrize(
    "fault", ["truncate", "stall", "silent", "dribble", "reset", 500, 503, 429, 408]
)
def test_a_fault_is_retried(server, fault):
    server.faults[PATH] = [fault, fault]
    before = time.monotonic()
    assert open_url(server.url(PATH), patience=QUICK) == DATA
    assert time.monotonic() - before < 6
    assert [fault for _, fault in server.asked(PATH)][:3] == [fault, fault, "ok"]


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
    message = refused(server.url(PATH), PATH, "3 attempts", cause, patience=patience)
    assert "data.retries" in message and time.monotonic() - before < 3
    assert len(server.requests) == 3


def test_a_download_goes_on_where_it_broke_off(server):
    server.faults[PATH] = ["truncate", "truncate"]
    assert open_url(server.url(PATH), patience=QUICK) == DATA
    half, more = len(DATA) // 2, len(DATA) * 3 // 4
    assert [span for span, _ in server.asked(PATH)] == [None, f"bytes={half}-", f"bytes={more}-"]


def test_a_server_without_ranges_is_read_again(server):
    server.ranges = False
    server.faults[PATH] = ["truncate"]
    assert open_url(server.url(PATH), patience=QUICK) == DATA
    assert open_url(server.url(PATH), 1000, 70_000, patience=QUICK) == DATA[1000:71_000]


def test_a_file_that_changes_meanwhile_is_refused(server):
    server.headers["ETag"] = '"1"'
    server.faults[PATH] = ["truncate"]
    chunks = read_chunks(server.url(PATH), patience=QUICK)
    next(chunks)
    server.headers["ETag"] = '"2"'
    with pytest.raises(DataError, match="changed while"):
        list(chunks)


def test_a_range_asks_for_no_more(server):
    assert open_url(server.url(PATH), 10, 20, patience=QUICK) == DATA[10:30]
    assert server.asked(PATH)[0][0] == "bytes=10-29"
    assert open_url(server.url(PATH), len(DATA) - 5, 20, patience=QUICK) == DATA[-5:]
    assert open_url(server.url(PATH), 7, 0, patience=QUICK) == b""
    refused(server.url(PATH), "416", offset=len(DATA), length=4)


def test_pieces_are_no_larger_than_asked_for(server):
    pieces = list(read_chunks(server.url(PATH), 1000))
    assert max(map(len, pieces)) == 1000 and b"".join(pieces) == DATA


class FewBytes(io.BytesIO):
    def read(self, _):
        return super().read(1)


def test_a_slow_reader_is_no_slow_server(monkeypatch):
    monkeypatch.setattr(io, "few_bytes", lambda _: FewBytes(b"1234"), raising=False)
    patience = Patience(retries=0, stall_s=0.2)
    pieces = []
    for piece in read_chunks("mine://x", opener="io:few_bytes", patience=patience):
        pieces.append(piece)
        time.sleep(0.15)
    assert b"".join(pieces) == b"1234"


def test_nobody_there(server):
    server.__exit__()
    refused(server.url(PATH), "no connection", "refused")


def test_local_files(tmp_path):
    path = tmp_path / "a b:c.tar"
    path.write_bytes(DATA)
    assert open_url(str(path)) == DATA
    assert open_url(path.as_uri(), 5, 10) == DATA[5:15]
    assert local_path(path.as_uri()) == local_path(str(path)) == path
    assert local_path("s3://bucket/x") is None and local_path("pipe:cat x") is None
    refused(str(tmp_path / "none"), "No such file")
    refused(str(tmp_path), "directory")


def test_pipes(tmp_path):
    (tmp_path / "x").write_bytes(DATA)
    assert open_url(f"pipe:cat {tmp_path}/x") == DATA
    assert open_url(f"pipe:cat {tmp_path}/x", 1000, 200_000) == DATA[1000:201_000]


def test_a_command_that_fails(tmp_path):
    once = f"test -e {tmp_path}/x || {{ touch {tmp_path}/x; printf 12; exit 3; }}; printf 1234"
    assert open_url(f"pipe:{once}", patience=QUICK) == b"1234"
    (tmp_path / "x").unlink()
    refused(f"pipe:{once[:-4]}1324", "it changed")
    refused("pipe:echo 1; echo no disk >&2; exit 3", "status 3 (no disk)", "4 attempts")
    before = time.monotonic()
    refused("pipe:no-such-command", "status 127", patience=Patience())
    assert time.monotonic() - before < 1


def test_a_command_that_stalls_is_ended(tmp_path):
    patience = Patience(retries=0, stall_s=0.2)
    refused(f"pipe:echo $$ > {tmp_path}/pid; echo 1; sleep 60 | cat", "no byte", patience=patience)
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 3
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _alive(pid)


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_an_opener_of_the_users_choice(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(DATA)
    (tmp_path / "my_openers.py").write_text(
        "from pathlib import Path\n"
        f"def mine(url): return (Path({str(tmp_path)!r}) / url.partition('://')[2]).open('rb')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert open_url("mine://x", opener="my_openers:mine") == DATA
    assert open_url("mine://x", 9, 9, opener="my_openers:mine") == DATA[9:18]
    refused("mine://y", "not there", opener="my_openers:mine")
    refused("mine://x", "data.opener", "module:function", opener="my_openers:other")
    refused("mine://x", "data.opener", "module:function", opener="no.such:one")
    refused("mine://x", "mine://", "data.opener")


def test_an_opener_in_webdatasets_table(tmp_path):
    from webdataset.gopen import gopen_schemes

    (tmp_path / "x").write_bytes(DATA)
    gopen_schemes["s3"] = lambda url, mode, size: (tmp_path / url[5:]).open(mode)
    try:
        assert open_url("s3://x") == DATA
    finally:
        del gopen_schemes["s3"]


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
        assert open_url("s3://shards/x.tar", patience=QUICK) == DATA * 20
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
        assert open_url("gs://shards/x.tar", patience=QUICK) == DATA * 20
        check_reading("gs://shards")
    finally:
        server.stop()
        fsspec.get_filesystem_class("gs").clear_instance_cache()


def check_reading(bucket):
    """Part of an object, also in a forked loader worker, and one that is not there."""
    part = partial(open_url, f"{bucket}/x.tar", 7, 70, patience=QUICK)
    assert part() == DATA[7:77]
    # There the parent's connections are of no use.
    fork = multiprocessing.get_context("fork")
    answers = fork.Queue()
    worker = fork.Process(target=lambda: answers.put(part()))
    worker.start()
    assert answers.get(timeout=10) == DATA[7:77]
    worker.join()
    refused(f"{bucket}/y.tar", f"{bucket}/y.tar", "not there")


def test_waits_grow_and_are_limited():
    patience = Patience(backoff_s=0.5, max_backoff_s=3.0)
    assert [patience.wait_s(n, 1.0) for n in (1, 2, 3, 4, 9)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert patience.wait_s(3, 0.0) == 0.0


def test_a_server_that_names_a_wait_gets_it():
    attempts = Attempts("http://x", Patience(backoff_s=0.0))
    before = time.monotonic()
    attempts.failed("503", retry_after_s=0.2)
    assert 0.2 <= time.monotonic() - before < 1


def test_a_signature_is_not_shown():
    assert shown("https://me:secret@host/a.tar?sig=secret") == "https://host/a.tar"


def test_who_waits_long_is_told_once_what_for(server, capsys):
    server.faults[PATH] = [503] * 5
    assert open_url(server.url(PATH), patience=Patience(8, backoff_s=0.005)) == DATA
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert PATH in lines[0] and lines[0].endswith("Unavailable; trying again, 6 times at most.")
    server.faults[PATH] = [503] * 2
    open_url(server.url(PATH), patience=QUICK)
    assert capsys.readouterr().err == ""
