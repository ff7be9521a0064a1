"""A run in what a strict container gives it, as docker/README.md says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rwp_dist.shards.digits import write_digits

ROOT = Path(__file__).parents[2]

CONTAINER = """
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=1777 volume {volume}
mount -t tmpfs -o mode=1777,noexec,size=64m tmp {tmp}
mount -t tmpfs -o noexec,size={shm} shm /dev/shm
mount -o remount,bind,ro /
if touch {root}/written 2> /dev/null; then exit 9; fi
exec unshare --user --map-user=12345 "$@"
"""


@pytest.mark.parametrize("shm", ["64m", "4k"])
def test_a_read_only_root_a_number_as_user_and_little_shared_memory_will_do(
    tmp_path: Path, shm: str
) -> None:
    """Also: no home, TMPDIR on another device and noexec, another time zone."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("only root makes such namespaces")
    volume, tmp = tmp_path / "volume", tmp_path / "tmp"
    for folder in (volume, tmp):
        folder.mkdir()
    write_digits(tmp_path / "digits")
    data = [
        f"data.{part}={tmp_path}/digits/{name}"
        for part, name in (("train", "train"), ("val", "test"))
    ]
    settings = [
        *data,
        "variant=m-rwp",
        "schedule.steps=2",
        "schedule.warmup_steps=0",
        "data.workers=2",
        "tracking.wandb=off",
        "noise.backend=native",
    ]
    script = CONTAINER.format(volume=volume, tmp=tmp, shm=shm, root=tmp_path)
    command = [sys.executable, "-m", "rwp_dist", "train", "configs/digits.yaml", *settings]
    done = subprocess.run(
        ["unshare", "--mount", "bash", "-c", script, "_", *command, f"run.dir={volume}/run"],
        env={
            name: value
            for name, value in os.environ.items()
            if name not in ("HOME", "USER", "LOGNAME", "XDG_CACHE_HOME")
        }
        | {"TMPDIR": str(tmp), "TZ": "Asia/Kolkata"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "finished m-rwp" in done.stdout and "compiling normals.c" in done.stderr
    assert ("in pipes" in done.stderr) == (shm == "4k")
    assert "Traceback" not in done.stderr
