"""Runs behind symbolic links: every command finds each once, and says what it cannot read."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from support.comparisons import make

import launcher.cli
from rwp_dist.compare import comparison_of
from rwp_dist.evaluation.targets import find_targets
from rwp_dist.flatness.runs import find_runs
from rwp_dist.tracking import sync


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A run, one that was moved away, links to both, in circles and to nothing."""
    folder = tmp_path / "runs"
    for seed in (0, 1):
        run = make(folder, "sgd", seed, 90.0, 0.1)
        run.create()
        (run.checkpoints / "step-00000100.pt").touch()
    (folder / "sgd-1").rename(tmp_path / "scratch")
    (folder / "sgd-1").symlink_to(tmp_path / "scratch")
    (folder / "sgd-again").symlink_to(tmp_path / "scratch")
    (folder / "circle").symlink_to(folder)
    (folder / "lost").symlink_to(tmp_path / "gone")
    return folder


def test_in_a_table(runs: Path) -> None:
    assert len(comparison_of([runs, runs / "circle"]).runs) == 2
    comparison = comparison_of([runs])
    assert [run.path.name for run in comparison.runs] == ["sgd-0", "sgd-1"]
    assert comparison.left_out == {runs / "lost": "a link to nothing"}


@pytest.mark.parametrize("command", ["list", "status"])
def test_by_the_launcher(runs: Path, command: str) -> None:
    found = CliRunner().invoke(launcher.cli.main, [command, str(runs)])
    names = [line.split()[0].rpartition("/")[2] for line in found.stdout.splitlines()]
    assert [name for name in names if "-" in name.strip("-")] == ["sgd-0", "sgd-1"]
    assert found.stderr == f"Left out: {runs / 'lost'} (a link to nothing)\n"


def test_by_evaluate_and_flatness(runs: Path) -> None:
    targets, left_out = find_targets([str(runs)], None)
    assert [target.run.path.name for target in targets] == ["sgd-0", "sgd-1"]
    assert left_out == {runs / "lost": "a link to nothing"}
    assert [run.name for run in find_runs([runs])] == ["sgd-0", "sgd-1"]


def test_by_sync(runs: Path) -> None:
    said: list[str] = []
    for name in ("sgd-0", "sgd-1"):
        config = runs / name / "config.yaml"
        config.write_text(config.read_text().replace("wandb: 'off'", "wandb: offline"))
    found = sync.find_runs([runs], said.append)
    assert [run.path.name for run in found] == ["sgd-0", "sgd-1"]
    assert said == [
        f"{runs / 'lost'}: left out, because it cannot be looked into (a link to nothing)"
    ]
