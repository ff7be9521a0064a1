"""How many cores a process may keep busy, and how many workers a rank gets of them."""

import os
from pathlib import Path

import pytest

from rwp_dist.config import load_settings
from rwp_dist.data import chosen
from rwp_dist.data.chosen import MOST_WORKERS, num_workers
from rwp_dist.process import cgroup


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of this process's group, on a machine of 64 cores."""
    monkeypatch.setattr(cgroup, "ROOT", tmp_path)
    monkeypatch.setattr(cgroup, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    folder = tmp_path / "job" / "step"
    folder.mkdir(parents=True)
    (tmp_path / "membership").write_text("0::/job/step\n")
    return folder


def test_the_tightest_group_counts(group: Path) -> None:
    assert cgroup.cores() == 64
    (group / "cpu.max").write_text("max 100000\n")
    assert cgroup.cores() == 64
    (group.parent / "cpu.max").write_text("850000 100000\n")
    assert cgroup.cores() == 8
    (group / "cpu.max").write_text("50000 100000\n")
    assert cgroup.cores() == 1


def test_groups_of_the_first_version_count_too(group: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cpu" / "job"
    folder.mkdir(parents=True)
    (tmp_path / "membership").write_text("3:cpu:/job\n")
    for name, value in (("cpu.cfs_quota_us", 400_000), ("cpu.cfs_period_us", 100_000)):
        (folder / name).write_text(f"{value}\n")
    assert cgroup.cores() == 4
    (folder / "cpu.cfs_quota_us").write_text("-1\n")
    assert cgroup.cores() == 64


@pytest.mark.parametrize(
    ("cores", "ranks", "more", "workers"),
    [
        (1, 1, (), 0),
        (2, 2, (), 0),
        (2, 1, (), 1),
        (96, 8, (), 11),
        (96, 8, ("run.threads=4",), 8),
        (96, 2, (), MOST_WORKERS),
        (4, 8, (), 0),
        (96, 8, ("data.workers=3",), 3),
        (1, 1, ("data.workers=0",), 0),
    ],
)
def test_ranks_share_the_cores_of_their_node(
    cores: int, ranks: int, more: tuple[str, ...], workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chosen, "cores", lambda: cores)
    assert num_workers(load_settings(None, more), ranks) == workers
