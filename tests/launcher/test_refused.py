"""What a submission finds to be wrong, and what it leaves behind when it fails: nothing."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from launcher import snapshot
from launcher.backends import LaunchError
from launcher.backends.slurm import Slurm
from launcher.cli import main
from launcher.job import Job, read_job
from rwp_dist.record.directory import RunDir
from rwp_dist.shards.digits import write_digits

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs" / "digits.yaml")
ACCEPTED = "echo 17"
REFUSED = "echo 'sbatch: error: invalid partition specified: nowhere.' >&2; exit 1"
EMPTY = """echo '{"jobs": []}'"""


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder)
    return folder


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of stand-ins for Slurm's programs; sbatch refuses, and nothing is queued."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, body in {"sbatch": REFUSED, "squeue": EMPTY, "scontrol": ":", "sacct": ":"}.items():
        program(folder, name, body)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def program(folder: Path, name: str, body: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)


def submit(run: Path, data: Path, *more: str) -> Result:
    places = (f"data.train={data}/train", f"data.val={data}/test", f"run.dir={run}")
    arguments = ["submit", CONFIG, "variant=sgd", "--gpus=0", *places, *more]
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def content(folder: Path) -> dict[str, bytes | None]:
    """All files and folders below one, with what is in them."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def test_a_submission_that_is_refused_leaves_nothing(
    tmp_path: Path, cluster: Path, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "some" / "where" / "run"
    done = submit(run, digits)
    assert done.exit_code == 1 and "invalid partition" in done.stderr
    assert not (tmp_path / "some").exists()
    (cluster / "sbatch").unlink()
    monkeypatch.setenv("PATH", str(cluster))  # a machine may have a real one
    done = submit(run, digits)
    assert done.exit_code == 1 and "there is no such program" in done.stderr
    assert not (tmp_path / "some").exists()


def test_what_was_there_before_stays_as_it_was(tmp_path: Path, cluster: Path, digits: Path) -> None:
    run = tmp_path / "run"
    program(cluster, "sbatch", ACCEPTED)
    assert submit(run, digits).exit_code == 0
    (run / "notes.txt").write_text("mine")
    before = content(run)
    program(cluster, "sbatch", REFUSED)
    assert submit(run, digits, "optimizer.lr=0.3").exit_code == 1
    assert content(run) == before
    done = CliRunner().invoke(main, ["resume", str(run)])
    assert done.exit_code == 1 and "invalid partition" in done.stderr
    assert content(run) == before


def test_a_disk_that_is_full_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, cluster: Path, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = Path.write_bytes

    def full(self: Path, content: bytes) -> int:
        if self.name == "train.py":
            raise OSError(28, "No space left on device")
        return really(self, content)

    monkeypatch.setattr(snapshot.Path, "write_bytes", full)
    done = submit(tmp_path / "run", digits)
    assert done.exit_code == 1 and done.stderr.count("\n") == 1
    assert "No space left on device" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("queued", [True, False, None])
def test_a_job_whose_answer_was_lost_is_looked_for(
    tmp_path: Path, cluster: Path, digits: Path, queued: bool | None
) -> None:
    """``None``: squeue does not answer either."""
    run = tmp_path / "run"
    keep = f'echo "$2" >{tmp_path}/comment; echo "sbatch: error: Socket timed out" >&2; exit 1'
    program(cluster, "sbatch", keep)
    job = '{"job_id": 17, "job_state": "PENDING", "comment": "$(cut -d= -f2 %s/comment)"}'
    listed = f'cat <<END\n{{"jobs": [{job % tmp_path}]}}\nEND'
    program(cluster, "squeue", {True: listed, False: EMPTY, None: "exit 1"}[queued])
    done = submit(run, digits)
    if queued:
        assert done.exit_code == 0 and done.stdout.startswith("slurm 17: ")
    else:
        assert done.exit_code == 1 and "timed out" in done.stderr
        found = read_job(RunDir(run))
        assert found is not None and found.id is None  # its token can be found again


# --- what train would refuse ---


def test_everything_wrong_is_said_at_once_before_anything_is_made(
    tmp_path: Path, cluster: Path, digits: Path
) -> None:
    run = tmp_path / "run"
    done = submit(run, digits, "method.sigma=-1", "model.num_classes=5", "--ranks=3")
    assert done.exit_code == 2
    keys = [line.split()[1] for line in done.stderr.splitlines()[1:]]
    sides = ["model.num_classes:"] * 2  # a label of training, and one of evaluation
    assert keys == ["method.sigma:", "batch.global:", *sides]
    done = submit(run, digits, "model.num_classes=5", f"data.val={tmp_path}/bin")
    keys = [line.split()[1] for line in done.stderr.splitlines()[1:]]
    assert (done.exit_code, keys) == (2, ["model.num_classes:", "data.val:"])
    assert not run.exists()


@pytest.mark.parametrize(
    ("option", "key"),
    [
        ("--time=1h", "--time"),
        ("--time=0", "--time"),
        ("--option=time=soon", "--option time"),
        ("--option=mem=lots", "--option mem"),
        ("--option=--mem=64G", "--option"),
        ("--nodes=0", "--nodes"),
        ("--gpus=-1", "--gpus"),
        ("--ranks=0", "--ranks"),
        ("--cpus=0", "--cpus"),
        ("--max-attempts=0", "--max-attempts"),
        ("--partition=", "--partition"),
        ("--secrets=nowhere", "--secrets"),
        ("--site=nowhere", "--site"),
    ],
)
def test_options_that_a_queue_would_find_wrong_later_are_refused_at_once(
    tmp_path: Path, cluster: Path, digits: Path, option: str, key: str
) -> None:
    program(cluster, "sbatch", ACCEPTED)
    done = submit(tmp_path / "run", digits, option)
    assert done.exit_code == 2 and done.stderr.startswith(f"{key}: ")
    assert not (tmp_path / "run").exists()


def test_a_profile_that_the_job_would_refuse_is_refused_at_once(
    tmp_path: Path, cluster: Path, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = tmp_path / "slurm" / "site.sh"
    profile.parent.mkdir()
    profile.write_bytes(b"export A=1\r\n")
    program(cluster, "sbatch", ACCEPTED)
    said = f"--site: {profile} has line ends of Windows; convert it, as with sed -i "
    said += f"'s/\\r$//' {profile}."
    for more in ([], ["--dry-run"]):
        done = submit(tmp_path / "run", digits, f"--site={profile}", *more)
        assert (done.exit_code, said in done.stderr) == (2, True), done.stderr
        assert done.stdout.startswith("#!/bin/bash") == bool(more)
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(snapshot, "PROJECT", tmp_path)  # the project's own
    done = submit(tmp_path / "run", digits, "--dry-run")
    assert done.exit_code == 2 and said in done.stderr
    assert submit(tmp_path / "run", digits, "--backend=local", "--dry-run").exit_code == 0


def test_wrong_options_and_settings_are_told_in_one_list(
    tmp_path: Path, cluster: Path, digits: Path
) -> None:
    wrong = ("--time=25h", "--cpus=0", "--option=mem=lots", "method.sigma=-1")
    done = submit(tmp_path / "run", digits, *wrong)
    told = ["--time:", "--cpus:", "--option", "method.sigma:"]
    assert done.exit_code == 2
    assert sorted(line.split()[1] for line in done.stderr.splitlines()[1:]) == sorted(told)
    folder = ("sweep", CONFIG, f"--dir={tmp_path}/sweep", f"data.train={digits}/train")
    more = (f"data.val={digits}/test", "--backend=slurm", "--gpus=0", "--time=25h", "--parallel=0")
    done = CliRunner().invoke(main, [*folder, *more], catch_exceptions=False)
    assert done.exit_code == 2
    assert "--time: " in done.stderr and "--parallel: " in done.stderr


def test_a_short_limit_is_told(tmp_path: Path, cluster: Path, digits: Path) -> None:
    program(cluster, "sbatch", ACCEPTED)
    done = submit(tmp_path / "run", digits, "--time=20", "--option=mem=64G")
    assert done.exit_code == 0
    assert "Warning: --time: 20 is short: ranks save and stop 300 s before it." in done.stderr
    assert "is short" not in submit(tmp_path / "other", digits, "--time=1:00:00").stderr


# --- --dry-run ---


def test_a_dry_run_prints_the_script_whatever_is_wrong_and_makes_nothing(
    tmp_path: Path, cluster: Path, digits: Path
) -> None:
    run = tmp_path / "run"
    script = submit(run, digits, "--dry-run")
    assert script.exit_code == 0 and script.stdout.startswith("#!/bin/bash")

    def refused(word: str, *more: str, data: Path = digits) -> None:
        before = content(tmp_path)
        done = submit(run, data, *more, "--dry-run")
        assert done.exit_code == 2 and done.stdout == script.stdout
        assert word in done.stderr
        assert content(tmp_path) == before

    missing = submit(run, tmp_path / "gone", "--dry-run")
    assert (missing.exit_code, missing.stdout) == (0, script.stdout)
    assert missing.stderr.count("Warning: ") == 2
    refused("data.train: ", f"data.train={tmp_path}/bin")
    refused("method.sigma: ", "method.sigma=-1")
    refused("batch.global: ", "batch.global=61", "batch.per_rank=8")
    RunDir(run).create()
    with RunDir(run).locked():
        refused("is being trained already")
    RunDir(run).write_summary({})
    refused("is finished")
    RunDir(run).summary.unlink()
    Job(run, "a", "slurm", token="token").write()
    job = {"job_id": 17, "job_state": "RUNNING", "comment": "token"}
    program(cluster, "squeue", f"echo '{json.dumps({'jobs': [job]})}'")
    refused("has a job already (slurm 17")
    known = read_job(RunDir(run))
    assert known is not None and known.id is None


def test_a_dry_run_shows_the_script_without_options_that_are_wrong(
    tmp_path: Path, cluster: Path, digits: Path
) -> None:
    run = tmp_path / "run"
    script = submit(run, digits, "--dry-run").stdout
    done = submit(run, digits, "--time=25h", "--option=mem=lots", "--dry-run")
    assert done.exit_code == 2 and done.stdout == script
    assert "the script is shown without --time, --option mem." in done.stderr
    assert "'25h' is no time limit" in done.stderr and "'lots' is no size" in done.stderr


def test_a_dry_run_says_if_there_is_no_script_with_these_options(
    tmp_path: Path, cluster: Path, digits: Path
) -> None:
    docker = ("--backend=docker", "method.sigma=-1", "--dry-run")
    done = submit(tmp_path / "run", digits, *docker)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "no script can be shown with these options." in done.stderr
    assert "--container: docker runs an image" in done.stderr and "method.sigma: " in done.stderr


def test_a_dry_run_says_if_the_queue_cannot_be_asked(
    tmp_path: Path, cluster: Path, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(self: Slurm, jobs: list[Job]) -> None:
        raise LaunchError("squeue is away")

    monkeypatch.setattr(Slurm, "find", find)
    Job(tmp_path / "run", "a", "slurm", id="3").write()
    done = submit(tmp_path / "run", digits, "--dry-run")
    assert done.exit_code == 2 and done.stdout.startswith("#!/bin/bash")
    assert "squeue is away" in done.stderr
