"""Which commit the code has: of its own checkout whatever git is told, or why it is not known."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.until import until

from rwp_dist.base.files import write_json, write_text
from rwp_dist.record import code, git
from rwp_dist.record.directory import RunDir


def run_git(folder: Path, *command: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "protocol.file.allow=always")
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        ["git", *who, *command], cwd=folder, env=own, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def repository(folder: Path) -> Path:
    """A checkout with one commit of a package."""
    write_text(folder / "rwp_dist" / "train.py", folder.name)
    run_git(folder, "init", "-q")
    run_git(folder, "add", ".")
    run_git(folder, "commit", "-qm", folder.name)
    return folder


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package's own checkout."""
    folder = repository(tmp_path / "own")
    monkeypatch.setattr(code, "PACKAGE", folder / "rwp_dist")
    return folder


def known(folder: Path, dirty: bool = False) -> dict[str, object]:
    return {"commit": run_git(folder, "rev-parse", "HEAD"), "dirty": dirty}


def test_the_commit_and_whether_something_has_changed(checkout: Path) -> None:
    assert code.commit_here() == known(checkout)
    assert code.commit_here(dirty=False)["dirty"] is None
    (checkout / "rwp_dist" / "new.py").touch()
    run_git(checkout, "config", "status.showUntrackedFiles", "no")
    assert code.commit_here() == known(checkout, dirty=True)


@pytest.mark.parametrize(
    "variables",
    [
        {"GIT_DIR": "{other}/.git"},
        {"GIT_DIR": "{other}/.git", "GIT_WORK_TREE": "{other}"},
        {"GIT_INDEX_FILE": "{other}/.git/index"},
        {"GIT_OBJECT_DIRECTORY": "{other}/.git/objects"},
        {"GIT_COMMON_DIR": "{other}/.git"},
        {"GIT_CEILING_DIRECTORIES": "{own}"},
        {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "core.bare", "GIT_CONFIG_VALUE_0": "true"},
    ],
    ids=lambda variables: next(iter(variables)),
)
def test_a_hook_of_another_repository_does_not_matter(
    variables: dict[str, str], checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, right = repository(tmp_path / "other"), known(checkout)
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(other=other, own=checkout))
    assert code.commit_here() == right


def test_a_clone_a_worktree_and_a_submodule_are_checkouts(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_git(checkout, "commit", "-q", "--allow-empty", "-m", "second")
    run_git(tmp_path, "clone", "-q", "--depth=1", f"file://{checkout}", "shallow")
    run_git(checkout, "worktree", "add", "-q", "--detach", str(tmp_path / "tree"), "HEAD~1")
    outer = repository(tmp_path / "outer")
    run_git(outer, "submodule", "add", "-q", str(checkout), "inner")
    for folder in (tmp_path / "shallow", tmp_path / "tree", outer / "inner"):
        monkeypatch.setattr(code, "PACKAGE", folder / "rwp_dist")
        assert code.commit_here() == known(folder), folder
    assert run_git(tmp_path / "tree", "rev-parse", "HEAD") != known(checkout)["commit"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_a_checkout_of_another_user_tells_its_commit(checkout: Path) -> None:
    right = known(checkout)
    for path in (checkout, *checkout.rglob("*")):
        os.chown(path, 12345, 12345)
    with pytest.raises(subprocess.CalledProcessError):
        run_git(checkout, "rev-parse", "HEAD")  # "dubious ownership"
    assert code.commit_here() == right


def test_a_package_within_another_repository_is_not_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = repository(tmp_path / "project") / ".venv" / "site-packages"
    site.mkdir(parents=True)
    monkeypatch.setattr(code, "PACKAGE", site / "rwp_dist")
    unknown = {"commit": None, "dirty": None, "unknown": "the code is in no git checkout"}
    assert code.commit_here() == unknown
    (site / ".git").mkdir()  # git itself would go on looking further up
    assert code.commit_here()["commit"] is None


def test_a_package_that_a_checkout_does_not_have_is_not_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = repository(tmp_path / "other")
    write_text(other / ".gitignore", "*")
    write_text(other / "copied" / "train.py", "copied")
    monkeypatch.setattr(code, "PACKAGE", other / "copied")
    why = "the code is in a checkout of something else"
    assert code.commit_here() == {"commit": None, "dirty": None, "unknown": why}


def program(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    (folder / "git").write_text(f"#!/bin/sh\n{body}\n")
    (folder / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_a_git_that_fails_hangs_or_is_missing_is_the_reason(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code.commit_here()["unknown"] == "git is not installed here"
    program(tmp_path / "a", "echo fatal: no such luck >&2; exit 128", monkeypatch)
    assert code.commit_here()["unknown"] == "`git rev-parse` failed (fatal: no such luck)"
    monkeypatch.setattr(git, "TIMEOUT_S", 0.2)
    program(tmp_path / "b", "exec sleep 60", monkeypatch)
    begin = time.monotonic()
    assert code.commit_here()["unknown"] == "`git rev-parse` took more than 0 s"
    assert time.monotonic() - begin < 5
    program(tmp_path / "c", '[ "$3" = status ] && exec sleep 60\necho abc', monkeypatch)
    slow = {"commit": "abc", "dirty": None, "unknown": "`git status` took more than 0 s"}
    assert code.commit_here() == slow


def test_a_git_that_hangs_ends_with_what_it_has_started(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "fifo")
    held = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    program(tmp_path / "bin", f"exec 3>{tmp_path}/fifo; sleep 600; true", monkeypatch)
    monkeypatch.setattr(git, "TIMEOUT_S", 1.0)

    def has_ended() -> bool:
        try:
            return os.read(held, 1) == b""
        except BlockingIOError:
            return False

    try:
        assert code.commit_here()["unknown"] == "`git rev-parse` took more than 1 s"
        until(has_ended, "the end of the sleep", timeout_s=60)
    finally:
        os.close(held)


def test_a_checkout_without_any_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_git(tmp_path, "init", "-q")
    monkeypatch.setattr(code, "PACKAGE", tmp_path / "rwp_dist")
    assert code.commit_here()["unknown"].startswith("`git rev-parse` failed (")


def installed(folder: Path, monkeypatch: pytest.MonkeyPatch, **source: object) -> None:
    """The package as pip installs it."""
    monkeypatch.setattr(code, "PACKAGE", folder / "rwp_dist")
    info = folder / "rwp_dist-9.dist-info"
    write_text(info / "METADATA", "Metadata-Version: 2.1\nName: rwp-dist\nVersion: 9\n")
    write_json(info / "direct_url.json", source)
    monkeypatch.syspath_prepend(folder)


def test_pip_knows_the_commit_of_a_repository_that_it_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vcs = {"vcs": "git", "commit_id": "abc", "requested_revision": "main"}
    installed(tmp_path / "site", monkeypatch, url="https://host/rwp-dist.git", vcs_info=vcs)
    assert code.commit_here() == {"commit": "abc", "dirty": None}
    monkeypatch.setattr(code, "PACKAGE", tmp_path / "another" / "rwp_dist")
    assert code.commit_here()["commit"] is None  # that copy is not what pip installed


def test_a_wheel_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path / "site", monkeypatch, url="file:///a.whl", archive_info={})
    assert code.commit_here()["unknown"] == "the code is in no git checkout"


def test_an_image_knows_the_commit_of_what_is_installed_in_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code, "PACKAGE", tmp_path / "env" / "site-packages" / "rwp_dist")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "env"))
    monkeypatch.setenv("RWP_COMMIT", "abc")
    assert code.commit_here() == {"commit": "abc", "dirty": None}
    monkeypatch.setenv("RWP_COMMIT", "unknown")  # as docker/Dockerfile says without --build-arg
    assert code.commit_here()["commit"] is None
    monkeypatch.setenv("RWP_COMMIT", "abc")
    monkeypatch.setattr(code, "PACKAGE", tmp_path / "mounted" / "rwp_dist")
    assert code.commit_here()["commit"] is None


@pytest.mark.parametrize(
    "git",
    [
        {"commit": "abc", "dirty": True, "untracked": []},
        {"commit": None, "dirty": None, "unknown": "git is not installed here"},
    ],
)
def test_a_copy_that_a_job_runs_knows_it_from_the_job(
    git: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = RunDir(tmp_path / "run")
    monkeypatch.setattr(code, "PACKAGE", tmp_path / "copy" / "rwp_dist")
    write_json(run_dir.job, {"code": str(tmp_path / "copy"), "git": git})
    assert code.commit_of(run_dir) == {key: git[key] for key in git if key != "untracked"}
    write_json(run_dir.job, {"code": str(tmp_path), "git": git})
    assert code.commit_of(run_dir)["unknown"] == "the code is in no git checkout"
    assert json.loads(run_dir.job.read_text())["git"] == git
