"""The user's own code, named by a setting, goes with a submitted job."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from launcher import snapshot
from launcher.cli import main
from launcher.job import Job, Resources, read_job
from rwp_dist.base.errors import ConfigError
from rwp_dist.base.named import find_source
from rwp_dist.config import load_settings
from rwp_dist.record.code import own_code_of
from rwp_dist.record.directory import RunDir

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs" / "digits.yaml")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's working directory, with a package and a module."""
    package = tmp_path / "here" / "my_models"
    (package / "inner" / "__pycache__").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "inner" / "__init__.py").write_text("def net(**arguments):\n    return 'mine'\n")
    (package / "inner" / "__pycache__" / "old.pyc").touch()
    (package / ".cache").mkdir()
    (package / ".cache" / "large").touch()
    (package / "table.csv").write_text("1,2")
    (package.parent / "my_opener.py").write_text("def opener(url, offset):\n    return []\n")
    monkeypatch.chdir(package.parent)
    return package.parent


def test_what_settings_name_is_found_without_importing_it(here: Path) -> None:
    (here / "my_models" / "__init__.py").write_text("raise SystemExit('imported')")
    assert find_source("my_models.inner:net") == here / "my_models"
    assert find_source("my_opener:opener") == here / "my_opener.py"
    for installed in ("json:loads", "numpy.random:rand", "sys:exit", "not_there:f"):
        assert find_source(installed) is None
    runs = [
        load_settings(CONFIG, ["data.opener=my_opener:opener", f"run.name={name}"])
        for name in ("a", "b", "not_there:f")
    ]
    assert own_code_of(runs) == [here / "my_opener.py"]


def test_a_package_goes_without_what_python_compiled_and_hidden_files(here: Path) -> None:
    code = snapshot.take(Resources(), [here / "my_models", here / "my_opener.py"])
    own = sorted(path for path in code.files if path.startswith("my_"))
    assert own == [
        "my_models/__init__.py",
        "my_models/inner/__init__.py",
        "my_models/table.csv",
        "my_opener.py",
    ]


def test_a_package_with_data_in_it_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "MAX_BYTES", 50)
    monkeypatch.setattr(snapshot, "PACKAGES", ())
    (here / "my_models" / "weights.pt").write_bytes(bytes(100))
    with pytest.raises(ConfigError, match="too much to be copied") as error:
        snapshot.take(Resources(), [here / "my_models"])
    assert error.value.cure == "move what is not code to another folder"


def submitted(run: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[Job, str]:
    """Submit to a Slurm that takes everything; the job and its script."""
    from launcher.backends.slurm import Slurm

    monkeypatch.setattr(Slurm, "submit", lambda self, jobs, script: "17")
    done = CliRunner().invoke(
        main, ["submit", CONFIG, f"run.dir={run}", *arguments], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    job = read_job(RunDir(run))
    assert job is not None
    return job, job.script.read_text()


def test_a_job_imports_it_from_its_own_folder(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, script = submitted(
        tmp_path / "run",
        monkeypatch,
        "run.name=my_models.inner:net",
        "data.opener=my_opener:opener",
    )
    (here / "my_models" / "inner" / "__init__.py").write_text("raise SystemExit('edited')")
    # What the job script says of Python's path, and nothing else.
    (path,) = (line for line in script.splitlines() if line.startswith("export PYTHONPATH="))
    (code,) = (line for line in script.splitlines() if line.startswith("CODE="))
    program = (
        "from rwp_dist.base.named import load_named\n"
        "net = load_named('my_models.inner:net', key='model.name')\n"
        "opener = load_named('my_opener:opener', key='data.opener')\n"
        "print(net(), opener('', 0), net.__code__.co_filename)"
    )
    done = subprocess.run(
        ["bash", "-c", f'{code}\n{path}\nexec "$@"', "bash", sys.executable, "-c", program],
        env={"PATH": os.environ["PATH"]},
        cwd="/",
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["mine", "[]", f"{job.code}/my_models/inner/__init__.py"]
