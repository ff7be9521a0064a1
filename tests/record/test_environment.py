"""environment.json, and what git says of the code."""

import json
import os
import subprocess
import sys
from pathlib import Path

from rwp_dist.base.files import write_text
from rwp_dist.record.environment import environment
from rwp_dist.record.git import git_state


def test_environment_is_json_and_names_versions() -> None:
    found = environment(world_size=4, gpus=["H200"])
    assert json.loads(json.dumps(found)) == found
    assert found["world_size"] == 4
    assert found["gpus"] == ["H200"]
    assert found["argv"] == sys.argv
    assert found["packages"]["torch"].count(".") >= 1
    assert found["num_cpus"] == os.cpu_count()


def test_git_state_of_a_checkout_and_of_a_folder_within_one(tmp_path: Path) -> None:
    def git(*command: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *command],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        return done.stdout.strip()

    assert git_state(tmp_path) is None
    git("init", "-q")
    write_text(tmp_path / "site" / "file", "1")
    git("add", ".")
    git("commit", "-qm", "first")
    assert git_state(tmp_path) == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    write_text(tmp_path / "site" / "file", "2")
    assert git_state(tmp_path) == {"commit": git("rev-parse", "HEAD"), "dirty": True}
    assert git_state(tmp_path / "site") is None
