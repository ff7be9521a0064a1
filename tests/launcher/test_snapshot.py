"""The code of a submission, taken from a checkout that goes on being edited."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from launcher import snapshot
from launcher.cli import main
from launcher.job import Job, Resources, read_job
from rwp_dist.record import code
from rwp_dist.record.directory import RunDir

CONFIG = str(Path(__file__).parents[2] / "configs" / "digits.yaml")


def git(folder: Path, *command: str) -> str:
    who = ("-c", "user.name=t", "-c", "user.email=t@example.com")
    done = subprocess.run(
        ["git", "-C", str(folder), *who, *command], capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one package, committed, from which submissions take their code."""
    folder = tmp_path / "checkout"
    (folder / "package").mkdir(parents=True)
    (folder / "package" / "train.py").write_text("print('first')\n")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    monkeypatch.setattr(snapshot, "PROJECT", folder)
    monkeypatch.setattr(code, "PACKAGE", folder / "package")
    monkeypatch.setattr(snapshot, "PACKAGES", (folder / "package",))
    return folder


def sweep(folder: Path, *arguments: str) -> list[Job]:
    """Submit one; the jobs of all of its folder so far."""
    options = ("--backend=slurm", f"--dir={folder}", "--variants=sgd", *arguments)
    done = CliRunner().invoke(main, ["sweep", CONFIG, *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    jobs = [read_job(RunDir(path.parent)) for path in sorted(folder.rglob("job.json"))]
    return [job for job in jobs if job is not None]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_sweep_leaves_code_and_script_of_the_first_alone(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, prints in (("sbatch", "17"), ("squeue", '{"jobs": []}'), ("scontrol", "")):
        (programs / name).write_text(f"#!/bin/sh\ncat >/dev/null\necho '{prints}'\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{Path(sys.executable).parent}:/usr/bin:/bin")

    (first,) = sweep(tmp_path / "runs", "--seeds=1")
    before, script = contents(first.code), first.script.read_bytes()
    assert str(first.code) in script.decode()
    (checkout / "package" / "train.py").write_text("print('edited')\n")
    for path in (tmp_path / "runs").rglob("job.json"):
        (path.parent / "summary.json").write_text("{}")  # finished: not submitted again
    jobs = sweep(tmp_path / "runs", "--seeds=2")

    assert len(jobs) == 2
    (second,) = (job for job in jobs if job.token != first.token)
    assert contents(first.code) == before and first.script.read_bytes() == script
    assert second.code != first.code and second.script != first.script
    assert (second.code / "package" / "train.py").read_text() == "print('edited')\n"


def test_the_diff_can_be_applied_to_the_commit(checkout: Path, tmp_path: Path) -> None:
    (checkout / "package" / "train.py").write_text("print('edited')  \n\n \n")
    (checkout / "logo.png").write_bytes(bytes(range(256)))
    git(checkout, "add", "logo.png")
    (checkout / "notes.txt").write_text("not known to git")
    taken = snapshot.take(Resources())
    assert taken.git["untracked"] == ["notes.txt"] and taken.git["dirty"]
    taken.write(tmp_path / "code")

    git(tmp_path, "clone", "-q", str(checkout), "clone")
    clone = tmp_path / "clone"
    git(clone, "checkout", "-q", taken.git["commit"])
    git(clone, "apply", "--check", str(tmp_path / "code" / "code.diff"))
    git(clone, "apply", str(tmp_path / "code" / "code.diff"))
    for name in ("package/train.py", "logo.png"):
        assert (clone / name).read_bytes() == (checkout / name).read_bytes()


def test_a_diff_that_git_cannot_make_is_noted(checkout: Path) -> None:
    git(checkout, "update-ref", "-d", "HEAD")  # a checkout without any commit
    taken = snapshot.take(Resources())
    assert taken.git == {
        "commit": None,
        "dirty": None,
        "unknown": "`git rev-parse` failed (fatal: Needed a single revision)",
    }
    assert "code.diff" not in taken.files


def test_a_commit_without_changes_has_no_diff(checkout: Path) -> None:
    taken = snapshot.take(Resources())
    assert taken.git == {"commit": git(checkout, "rev-parse", "HEAD").strip(), "dirty": False} | {
        "untracked": []
    }
    assert list(taken.files) == ["package/train.py"]
