"""``rwp-launch sweep``: what it would train, and what it refuses, on this machine and on Slurm."""

from pathlib import Path
from unittest.mock import patch

import pytest
from click.testing import CliRunner, Result

import rwp_dist.cli
from launcher.backends.slurm import Slurm
from launcher.cli import main
from launcher.job import Job
from rwp_dist.config import dump_settings, load_settings
from rwp_dist.record.directory import RunDir
from rwp_dist.shards.digits import write_digits

CONFIG = str(Path(__file__).parents[2] / "configs" / "digits.yaml")
SLURM = ("--backend=slurm", "--gpus=0")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory that has the data of the settings."""
    folder = tmp_path_factory.mktemp("work")
    write_digits(folder / "data" / "digits")
    return folder


@pytest.fixture(autouse=True)
def _work_there(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(digits)


def sweep(folder: Path, *arguments: str, program=main) -> Result:
    grid = "--grid=method.sigma=0.1,0.2"
    command = ["sweep", CONFIG, "--variants=sgd,rwp", grid, f"--dir={folder}", *arguments]
    return CliRunner().invoke(program, command)


def finish(folder: Path, name: str, *overrides: str) -> None:
    """A finished run in the folder of a sweep."""
    run = RunDir(folder / name)
    run.create()
    settings = load_settings(CONFIG, [f"run.dir={run.path}", *overrides])
    run.write_config(dump_settings(settings))
    run.write_summary({})


def test_a_dry_run_lists_the_runs_and_starts_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    here = sweep(folder, "--seeds=1", "--dry-run", "--nproc=2")
    there = sweep(folder, "--seeds=1", "--dry-run", *SLURM)
    alone = sweep(folder, "--seeds=1", "--dry-run", program=rwp_dist.cli.main)
    assert [done.exit_code for done in (here, there, alone)] == [0, 0, 0]
    assert here.stdout == alone.stdout and here.stdout.splitlines()[-2] == "3 runs"
    assert there.stderr.startswith(here.stdout)  # then sbatch's command
    assert there.stdout.startswith("#!/bin/bash") and there.stdout.count("submitted.yaml ;;") == 3
    assert not folder.exists()


@pytest.mark.parametrize("waits", [False, True])
def test_every_backend_refuses_other_settings_in_the_same_words(
    tmp_path: Path, waits: bool
) -> None:
    for name, variant, sigma in (("sgd-s1", "sgd", 0), ("rwp-sigma=0.2-s0", "rwp", 0.2)):
        given = [f"variant={variant}", f"method.sigma={sigma}", f"run.seed={name[-1]}"]
        finish(tmp_path, name, *given, "batch.global=32")
        if waits:
            run = RunDir(tmp_path / name)
            run.summary.unlink()
            run.config.rename(run.submitted)
            Job(run.path, name, "slurm").write()
    ways = [
        {"program": rwp_dist.cli.main},
        {"program": rwp_dist.cli.main, "more": ("--dry-run",)},
        {"more": ("--nproc=1",)},
        {"more": ("--nproc=1", "--dry-run")},
        {"more": SLURM},
        {"more": (*SLURM, "--dry-run")},
    ]
    said = set()
    for way in ways:
        with patch("launcher.cli._start_ranks") as started, patch.object(Slurm, "submit") as sent:
            done = sweep(tmp_path, *way.get("more", ()), program=way.get("program", main))
        assert done.exit_code == 2 and not started.called and not sent.called, done.output
        assert bool(done.stdout) == ("--dry-run" in way.get("more", ()))
        [line] = [line for line in done.stderr.splitlines() if "--dir: " in line]
        said.add(line)
    [words] = said
    assert words.count("batch.global: 32 there, 64 here") == 2
    assert f"{tmp_path}/rwp-sigma=0.2-s0 " in words and f"{tmp_path}/sgd-s1 " in words
    assert words.endswith("; name another folder, or remove these.")


def test_finished_runs_of_the_same_sweep_are_left_out(tmp_path: Path) -> None:
    finish(tmp_path, "sgd-s0", "variant=sgd", "run.seed=0")
    done = sweep(tmp_path, "--seeds=1", "--dry-run", *SLURM)
    assert done.exit_code == 0, done.output
    assert f"{tmp_path}/sgd-s0 is finished: left out." in done.stderr
    assert done.stdout.count("submitted.yaml ;;") == 2


def test_seeds_reach_the_ranks_as_they_were_written(tmp_path: Path) -> None:
    for arguments, seeds in ((("--seeds=2",), ["--seeds=2"]), (("--grid=run.seed=7",), [])):
        with patch("launcher.cli._start_ranks", side_effect=SystemExit(0)) as started:
            sweep(tmp_path, *arguments)
        _, command, place, _ = started.call_args.args
        assert [word for word in command if word.startswith("--seeds")] == seeds
        assert place == tmp_path and all(
            word in command for word in arguments if word.startswith("--grid")
        )


def test_a_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    script = sweep(Path("~/s"), "--seeds=1", "--dry-run", *SLURM).stdout
    assert f"RUN_DIR={tmp_path}/s/sgd-s0" in script and "~" not in script.partition("# --- job")[0]
