"""A home for users who have none, and places that can be used."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rwp_dist.base import home
from rwp_dist.base.errors import ConfigError

VARIABLES = ("HOME", "XDG_CACHE_HOME", *home.TRITON)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No variable is set; folders for temporary files are this one."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def without_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(user: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {user}")

    monkeypatch.setattr("pwd.getpwuid", unknown)


def test_a_user_without_a_home_gets_a_private_one(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_home(monkeypatch)
    home.provide_home()
    own = temporary / f"rwp-dist-{os.getuid()}"
    assert Path.home() == own / "home"
    assert own.stat().st_mode & 0o777 == 0o700
    assert "XDG_CACHE_HOME" not in os.environ
    assert home.kernels_folder() == own / "home/.triton/cache"


@pytest.mark.parametrize("name", ["file", "nothing"])
def test_a_home_that_is_of_no_use_stays_and_only_the_cache_is_elsewhere(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "file").touch()
    place = tmp_path / name
    monkeypatch.setenv("HOME", str(place))
    home.provide_home()
    own = temporary / f"rwp-dist-{os.getuid()}"
    assert (os.environ["HOME"], os.environ["XDG_CACHE_HOME"]) == (str(place), str(own / "cache"))
    assert home.kernels_folder() == own / "triton" == Path(os.environ["TRITON_CACHE_DIR"])
    assert not (tmp_path / "nothing").exists()


def test_what_a_user_has_set_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TRITON_CACHE_DIR", "/somewhere")
    home.provide_home()
    assert "XDG_CACHE_HOME" not in os.environ and home.kernels_folder() == Path("/somewhere")


def test_a_folder_of_somebody_else_is_not_taken_for_ones_own(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"rwp-dist-{os.getuid()}"
    (temporary / name).mkdir()
    (temporary / name).chmod(0o777)
    assert home.own_folder("a") is None
    (temporary / name).rmdir()
    (temporary / name).symlink_to(tmp_path)
    assert home.own_folder("a") is None
    (temporary / name).unlink()
    assert home.own_folder("a") == temporary / name / "a"


def test_a_user_who_can_have_no_home_is_told(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_home(monkeypatch)
    (temporary / f"rwp-dist-{os.getuid()}").mkdir()
    (temporary / f"rwp-dist-{os.getuid()}").chmod(0o777)
    home.provide_home()
    with pytest.raises(ConfigError, match=r"has no home folder.*; set HOME"):
        home.check_home()
    monkeypatch.setenv("HOME", str(temporary))
    home.check_home()


def test_kernels_that_may_nowhere_be_executed_are_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(home, "may_execute", lambda folder: False)
    with pytest.raises(ConfigError, match=r"Triton cannot keep.*TRITON_CACHE_DIR"):
        home.kernels_folder()


def test_programs_start_for_a_number_without_a_name_and_a_home(tmp_path: Path) -> None:
    """As ``docker run --user 12345`` and OpenShift have it."""
    inside = ["unshare", "--user", "--map-user=12345"]
    if subprocess.run([*inside, "true"], capture_output=True).returncode:
        pytest.skip("no user namespaces here")
    run = [sys.executable, "-m", "launcher", "submit", "configs/digits.yaml", "variant=m-rwp"]
    data = ["data.train=file:/nowhere", "data.val=s3://bucket/val", f"run.dir={tmp_path}/run"]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [*inside, *run, *data, "--gpus", "0", "--dry-run"],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert not (root / "~").exists()
