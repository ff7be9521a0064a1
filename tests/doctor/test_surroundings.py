"""What lies around a run: shared memory, clocks of servers, and other processes."""

import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest

from rwp_dist.config import load_settings
from rwp_dist.data.stream import Reading
from rwp_dist.doctor import cgroup, clock, disks, limits, network
from rwp_dist.doctor.case import Case
from rwp_dist.doctor.finding import Finding, Step, findings_of
from rwp_dist.doctor.software import packages


def groups(folder: Path, monkeypatch: pytest.MonkeyPatch, path: str, **files: str) -> None:
    """This process in a control group with these files."""
    (folder / path).mkdir(parents=True)
    for name, text in files.items():
        (folder / path / name.replace("_", ".", 1)).write_text(text)
    (folder / "membership").write_text(f"0::/{path}\n")
    monkeypatch.setattr(cgroup, "ROOT", folder)
    monkeypatch.setattr(cgroup, "MEMBERSHIP", folder / "membership")


def test_limits_of_a_job_count_also_from_the_groups_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = "anon 5\ninactive_file 400\n"
    groups(tmp_path, monkeypatch, "job/step", pids_max="max\n", memory_stat=stat)
    assert cgroup.threads_left() is None and cgroup.memory_left() is None
    for name, text in {"pids.max": "50", "pids.current": "20"}.items():
        (tmp_path / "job" / name).write_text(text)
    for name, text in {"memory.max": "10000", "memory.current": "600"}.items():
        (tmp_path / "job" / "step" / name).write_text(text)
    assert cgroup.threads_left() == 30
    assert cgroup.memory_left() == 10000 - (600 - 400)
    [finding] = limits.processes(Case())
    assert finding.state == "problem" and "30 more threads" in finding.seen
    assert "--pids-limit" in finding.cure


@pytest.mark.parametrize(
    "limit_gb, data_bytes, state",
    [("null", 1e18, "warning"), (1e9, 1e18, "problem"), (1, 9e9, "ok")],
)
def test_a_cache_larger_than_its_disk_is_found(
    limit_gb: object, data_bytes: float, state: str, tmp_path: Path
) -> None:
    told = [f"data.cache_gb={limit_gb}", f"data.cache_dir={tmp_path}"]
    [finding] = disks.cache_room(load_settings(None, told), data_bytes)
    assert finding.state == state, finding
    assert state == "ok" or "data.cache_gb" in finding.cure


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def shared_memory(size: int, *overrides: str) -> Finding:
    case = Case(load_settings(None, ["data.channels=3", "data.image_size=224", *overrides]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disks.shutil, "disk_usage", lambda path: Usage(size, 0, size))
        [finding] = findings_of(Step("disks", "shared memory", lambda: disks.shared_memory(case)))
    return finding


def test_dockers_default_of_shared_memory_is_too_little_for_workers() -> None:
    batches = ["batch.global=64", "data.workers=4", "data.prefetch=2"]
    found = shared_memory(64 << 20, *batches)
    assert found.state == "problem" and "--ipc=host" in found.cure
    assert found.figures["need_bytes"] == 4 * 3 * 64 * (3 * 224 * 224 + 12)
    assert shared_memory(64 << 20, *batches, "data.workers=0").state == "ok"
    assert shared_memory(1 << 30, *batches).state == "ok"


def against_server(ahead_s: float) -> Finding:
    class Dated(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response_only(404)
            self.send_header("Date", formatdate(time.time() + ahead_s, usegmt=True))
            self.end_headers()

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Dated)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/train"
    case = Case(load_settings(None, [f"data.train={url}"]))
    [finding] = findings_of(Step("clock", "server", lambda: clock.against_servers(case)))
    server.shutdown()
    return finding


def test_the_clock_is_compared_with_the_shard_servers() -> None:
    assert against_server(0).state == "ok"
    slow = against_server(30)
    assert slow.state == "warning" and slow.figures["apart_s"] == pytest.approx(30, abs=1.5)
    assert "chronyd" in slow.cure
    assert against_server(-3600).state == "problem"


def test_a_shared_disks_clock_is_asked_and_a_local_ones_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(load_settings(None, [f"run.dir={tmp_path}/run"]))
    assert list(clock.against_output(case)) == []
    monkeypatch.setattr(clock, "file_system", lambda folder: "nfs4")
    [finding] = clock.against_output(case)
    assert finding.state == "ok" and "nfs4" in finding.seen
    assert list(tmp_path.iterdir()) == []


def test_a_network_card_that_is_not_there_is_a_problem_that_lists_those_that_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nocard0")
    [finding] = findings_of(
        Step("network", "all-reduce", lambda: network.two_processes(Case()), 120.0)
    )
    assert finding.state == "problem" and "nocard0" in finding.seen, finding
    assert "GLOO_SOCKET_IFNAME" in finding.cure and "lo" in finding.cure


def test_a_package_that_is_too_old_is_a_problem_with_the_command_that_cures_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from rwp_dist.doctor import software

    real = software._version
    monkeypatch.setattr(software, "_version", lambda p: "2.1.0+cu121" if p == "torch" else real(p))
    found = {f.name: f for f in packages(Case())}
    assert found["torch"].state == "problem" and "2.1.0+cu121" in found["torch"].seen
    assert "pip install 'torch>=" in found["torch"].cure
    assert found["deepspeed"].state == "ok"


def test_shards_that_a_worker_keeps_open_are_as_many_as_it_says() -> None:
    assert Reading(8, 1).max_open_shards == limits.OPEN_SHARDS
