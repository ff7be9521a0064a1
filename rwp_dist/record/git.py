"""What git says about a checkout, whatever the environment says that git should look at."""

import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

TIMEOUT_S = 10.0
"""How long one question to git may take, in seconds."""


class GitError(Exception):
    """Git does not tell something. Its text says why, as part of a sentence."""


def git_state(package: Path, *, dirty: bool = True) -> dict[str, Any]:
    """``commit``, ``dirty`` and, if one of them could not be known, ``unknown``: why.

    Only a checkout counts that has the package at its top, in its commit: a package that is
    installed in some other checkout is not part of it. Without ``dirty``, which reads the whole
    checkout, that is None.
    """
    source = package.parent
    state: dict[str, Any] = {"commit": None, "dirty": None}
    try:
        commit = git_output(source, "rev-parse", "--verify", "HEAD").decode().strip()
        if not git_output(source, "ls-tree", "HEAD", package.name):
            raise GitError("the code is in a checkout of something else")
        state["commit"] = commit
        if dirty:
            state["dirty"] = bool(git_output(source, *STATUS))
    except GitError as error:
        state["unknown"] = str(error)
    return state


STATUS = ("status", "--porcelain", "-z", "--untracked-files=normal")
"""Arguments that list what differs from the commit."""


def git_output(source: Path, *command: str) -> bytes:
    """What a git command prints about a checkout, byte for byte.

    Raises:
        GitError: there is no checkout or no git, or git fails or hangs.
    """
    repository = source / ".git"  # a file in a submodule and in another worktree
    if not repository.exists():
        raise GitError("the code is in no git checkout")
    # With both folders named, git asks neither GIT_DIR, which a hook sets, nor who owns them: their
    # Python is run anyway.
    places = [f"--git-dir={repository}", f"--work-tree={source}"]
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    own |= {
        "GIT_OPTIONAL_LOCKS": "0",  # nothing is written, so that a commit made meanwhile succeeds
        "GIT_NO_LAZY_FETCH": "1",  # nor downloaded
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C",
    }
    try:
        with subprocess.Popen(
            ["git", *places, *command],
            cwd=source,
            env=own,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as git:
            try:
                said, problems = git.communicate(timeout=TIMEOUT_S)
            except BaseException:
                _end(git.pid)
                raise
    except subprocess.TimeoutExpired:
        raise GitError(f"`git {command[0]}` took more than {TIMEOUT_S:.0f} s") from None
    except FileNotFoundError:
        raise GitError("git is not installed here") from None
    except OSError as error:
        raise GitError(f"git cannot be started ({error.strerror})") from None
    if git.returncode:
        words = problems.decode(errors="replace").strip().splitlines() or ["no word"]
        raise GitError(f"`git {command[0]}` failed ({words[0]})")
    return said


def _end(process: int) -> None:
    """Kill a process and those that it has started, as a git that is a script has.

    A session of its own would do too, but Ctrl-C would not reach git there.
    """
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process)
        for each in (*parent.children(recursive=True), parent):
            with suppress(psutil.NoSuchProcess):
                each.kill()
