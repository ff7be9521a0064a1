"""Limits of containers and jobs; room in shared memory and in the cache."""

from pathlib import Path

import pytest
from support.examining import look, machine

from rwp_dist.base.errors import ConfigError
from rwp_dist.config import load_settings
from rwp_dist.data import room
from rwp_dist.data.room import shared_bytes
from rwp_dist.doctor import disks, limits
from rwp_dist.doctor.finding import Finding
from rwp_dist.doctor.machine import Machine
from rwp_dist.process import cgroup


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
    assert [f.state for f in look(limits.threads, Machine())] == ["ok"]
    for name, text in {"pids.max": "50", "pids.current": "20"}.items():
        (tmp_path / "job" / name).write_text(text)
    for name, text in {"memory.max": "10000", "memory.current": "600"}.items():
        (tmp_path / "job" / "step" / name).write_text(text)
    assert cgroup.threads_left() == 30
    assert cgroup.memory_left() == 10000 - (600 - 400)
    [finding] = look(limits.threads, Machine())
    assert finding.state == "problem" and finding.figures == {"room": 30, "need": 60}
    assert "--pids-limit" in finding.cure


def test_an_rdma_card_needs_locked_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits.resource, "getrlimit", lambda which: (8 << 20, 8 << 20))
    monkeypatch.setattr(limits, "RDMA", tmp_path / "infiniband")
    assert [f.state for f in look(limits.locked_memory, Machine())] == ["ok"]
    (tmp_path / "infiniband" / "mlx5_0").mkdir(parents=True)
    [finding] = look(limits.locked_memory, Machine())
    assert finding.state == "warning" and "mlx5_0" in finding.seen
    assert "memlock" in finding.cure


@pytest.mark.parametrize(
    ("limit_gb", "data_bytes", "state"),
    [("null", 1e18, "warning"), (1e9, 1e18, "problem"), (1, 9e9, "ok")],
)
def test_a_cache_larger_than_its_disk_is_found(
    limit_gb: object, data_bytes: float, state: str, tmp_path: Path
) -> None:
    told = [f"data.cache_gb={limit_gb}", f"data.cache_dir={tmp_path}"]
    finding = disks.cache_room(load_settings(None, told), data_bytes)
    assert finding.state == state, finding
    assert state == "ok" or "data.cache_gb" in finding.cure


def test_a_cache_on_a_network_file_system_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = ["data.train=http://somewhere/train", f"data.cache_dir={tmp_path}"]
    assert [f.state for f in look(disks.cache, machine(*told))] == ["ok"]
    monkeypatch.setattr(disks, "file_system", lambda folder: "nfs4")
    _, finding = look(disks.cache, machine(*told))
    assert finding.state == "warning" and "nfs4" in finding.seen
    assert look(disks.cache, machine()) == [], "local data needs no cache"


def shared_memory(size: int, *overrides: str) -> Finding:
    images = ["data.channels=3", "data.image_size=224"]
    with pytest.MonkeyPatch.context() as patch:
        for module in (disks, room):
            patch.setattr(module, "shared_memory_left", lambda: size)
        [finding] = look(disks.shared_memory, machine(*images, *overrides))
    return finding


def test_dockers_default_of_shared_memory_is_too_little_for_workers() -> None:
    batches = ["batch.global=64", "data.workers=4", "data.prefetch=2"]
    found = shared_memory(64 << 20, *batches)
    assert found.state == "warning" and "--ipc=host" in found.cure and "pipes" in found.cure
    assert found.figures["need_bytes"] == shared_bytes(
        64 * (3 * 224 * 224 + 12), prefetch=2, workers=4, ranks=1
    )
    assert shared_memory(64 << 20, *batches, "data.workers=0").state == "ok"
    assert shared_memory(1 << 30, *batches).state == "ok"


def test_a_users_limit_of_processes_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "threads_left", lambda: None)
    monkeypatch.setattr(limits.os, "geteuid", lambda: 1000)  # root has no such limit
    for soft, state in ((1 << 22, "ok"), (1, "problem")):
        monkeypatch.setattr(limits.resource, "getrlimit", lambda which, soft=soft: (soft, soft))
        [finding] = look(limits.threads, Machine())
        assert finding.state == state
    assert "ulimit -u" in finding.cure


def test_a_folder_for_temporary_files_that_is_of_no_use_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert [f.state for f in look(disks.temporary_folder, Machine())] == ["ok"]
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nothing"))
    [finding] = look(disks.temporary_folder, Machine())
    assert finding.state == "warning" and f"{tmp_path}/nothing (TMPDIR)" in finding.seen


def test_compiled_code_that_cannot_be_kept_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert [f.state for f in look(disks.compiled_code, Machine())] == ["ok"]
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    [finding] = look(disks.compiled_code, Machine())
    assert finding.state == "warning" and "XDG_CACHE_HOME" in finding.cure
    monkeypatch.setattr(disks, "compiled_folder", lambda: None)
    [finding] = look(disks.compiled_code, Machine())
    assert finding.state == "warning" and "no home" in finding.seen


def test_triton_without_a_place_for_its_kernels_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise ConfigError("Triton cannot keep what it compiles", cure="set TRITON_CACHE_DIR")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(Machine, "on_gpus", True)
    monkeypatch.setattr(disks, "kernels_folder", refuse)
    _, finding = look(disks.compiled_code, Machine())
    assert (finding.state, finding.cure) == ("problem", "set TRITON_CACHE_DIR")
