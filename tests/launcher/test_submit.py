"""Submitting, with real processes of this machine as the backend."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.gate import Gate
from support.until import HANG_S, until, until_ended

from launcher.backends.local import Local
from launcher.backends.slurm import Slurm
from launcher.cli import main
from launcher.job import Job, read_job
from launcher.status import collect
from launcher.submit import resubmit
from rwp_dist.base.errors import ConfigError
from rwp_dist.record.directory import RunDir
from rwp_dist.shards.digits import write_digits

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs" / "digits.yaml")
SECRET = "0123456789abcdef-planted"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder)
    return [f"data.train={folder}/train", f"data.val={folder}/test"]


def launch(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False)


def submit(run: Path, *arguments: str) -> Result:
    local = ("--backend=local", "--gpus=0", f"run.dir={run}")
    return launch("submit", CONFIG, *local, *arguments)


def state(run: Path) -> str:
    (found,), troubles = collect([run])
    assert not troubles
    return found.state


def wait(run: Path, *states: str) -> str:
    def found() -> str:
        return now if (now := state(run)) in states else ""

    def what() -> str:
        return f"{states}\n{(run / 'logs' / 'local.out').read_text()}"

    return until(found, what, every_s=0.2)


def test_a_run_from_submission_to_cancel_and_resume(
    tmp_path: Path, digits: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    monkeypatch.setenv("RWP_WEBHOOK", f"http://127.0.0.1:9/{SECRET}")
    run = tmp_path / "run"
    arguments = ("variant=sgd", "schedule.steps=100000", "tracking.log_every=10", *digits)
    script = submit(run, *arguments, "--dry-run").stdout
    assert not run.exists()
    done = submit(run, *arguments)
    assert done.exit_code == 0, done.output
    job = read_job(RunDir(run))
    assert job is not None and job.script.read_text() == script
    assert job.git is None or set(job.git) == {"commit", "dirty", "untracked"}
    for name in ("rwp_dist/train.py", "launcher/imagenet_rwp.sh"):
        assert (job.code / name).is_file(), name

    assert wait(run, "running") == "running"
    refused = submit(run, *arguments)
    assert refused.exit_code == 1 and "is being trained already" in refused.stderr
    assert (run / "metrics.jsonl").read_bytes()
    line = launch("status", str(tmp_path)).stdout.splitlines()[-1]
    assert line.split()[:2] == ["run", "running"] and "of 100,000" in line
    assert launch("list", str(tmp_path), "--state=running").stdout == f"{run}\n"

    follow = subprocess.Popen(
        [sys.executable, "-m", "launcher", "logs", "-f", str(run)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert launch("cancel", str(tmp_path)).exit_code == 0
    printed, _ = follow.communicate(timeout=HANG_S)
    assert "Stopped after step" in printed.splitlines()[-1]
    assert wait(run, "cancelled") == "cancelled"
    assert list((run / "checkpoints").glob("step-*.pt"))

    planted = subprocess.run(["grep", "-rl", SECRET, str(run)], capture_output=True, text=True)
    assert planted.stdout == ""

    other = submit(run, *arguments, "optimizer.lr=0.3")
    assert other.exit_code == 2 and "another run (optimizer.lr" in other.stderr
    assert launch("resume", str(run)).exit_code == 0
    assert wait(run, "running") == "running"
    first = json.loads((run / "status.json").read_text())["step"]
    assert first > 0
    launch("cancel", str(run))
    assert wait(run, "cancelled") == "cancelled"


def test_a_later_edit_does_not_change_a_submitted_run(
    tmp_path: Path, digits: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of the submission is a checkout, whose files are edited."""
    config = tmp_path / "own.yaml"
    config.write_text(Path(CONFIG).read_text())
    monkeypatch.chdir(tmp_path)
    relative = [text.replace(f"={tmp_path.parent}/", "=../") for text in digits]
    options = ("--backend=local", "--gpus=0", "run.dir=run", "variant=sgd", "schedule.steps=3")
    assert launch("submit", "own.yaml", *options, *relative).exit_code == 0
    config.write_text("method: {name: nonsense}")
    (tmp_path / "rwp_dist").mkdir()
    (tmp_path / "rwp_dist" / "__init__.py").write_text("raise SystemExit('edited')")
    assert wait(tmp_path / "run", "finished", "failed", "lost") == "finished"
    again = launch("submit", "own.yaml", *options, *relative)
    assert again.exit_code == 2
    config.write_text(Path(CONFIG).read_text())
    again = launch("submit", "own.yaml", *options, *relative)
    assert again.exit_code == 2 and "is finished" in again.stderr


def test_a_crash_after_submission_loses_no_job(
    tmp_path: Path, digits: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, gate = tmp_path / "run", Gate(tmp_path / "gate", "torch")
    really = Local.submit

    def crash_after(self: Local, jobs, script: str) -> str:
        really(self, jobs, script)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Local, "submit", crash_after)
        patch.setenv("PYTHONPATH", gate.environment["PYTHONPATH"])
        submit(run, "variant=sgd", "schedule.steps=100000", *digits)
    job = read_job(RunDir(run))
    assert job is not None and job.id is None
    refused = submit(run, "variant=sgd", "schedule.steps=100000", *digits)
    assert refused.exit_code == 2 and "has a job already (local" in refused.stderr
    job = read_job(RunDir(run))
    assert job is not None and job.id is not None and int(job.id) in os_processes()
    gate.wait()  # the launcher can be asked to stop
    launch("cancel", str(run))
    assert wait(run, "cancelled", "lost") == "cancelled"


def os_processes() -> list[int]:
    return [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]


def test_a_lock_of_a_dead_process_is_nobodys(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.create()
    (run.path / "lock").write_text(f"process {os.getpid()} on nowhere\n")
    run.write_status("running", 3, 10)
    assert run.holder() is None
    assert state(run.path) == "lost"
    with run.locked():
        assert run.holder() is not None
        assert state(run.path) == "running"


def test_looking_at_a_lock_never_keeps_a_run_from_starting(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    looker = "import sys, time\nfrom rwp_dist.record.directory import RunDir\n"
    looker += "run = RunDir(sys.argv[1])\n"
    looker += "end = time.monotonic() + 3\nwhile time.monotonic() < end: run.holder()"
    with run.locked():
        pass
    process = subprocess.Popen([sys.executable, "-c", looker, str(tmp_path)])
    try:
        while process.poll() is None:
            with run.locked():
                pass
    finally:
        process.wait()


@pytest.mark.parametrize(
    ("arguments", "cure"),
    [
        (("--nodes=2",), "choose another --backend"),
        (("--ranks=3",), "set batch.global to 63 or 66"),
        (("--ranks=0",), "give 1 or more"),
        (("--secrets=nowhere",), "is no file"),
        (("method.sigma=-1",), "method.sigma"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_made(
    tmp_path: Path, arguments: tuple[str, ...], cure: str
) -> None:
    done = submit(tmp_path / "run", *arguments)
    assert done.exit_code == 2 and cure in done.stderr
    assert not (tmp_path / "run").exists()


def test_secrets_that_others_may_read_are_refused(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"WANDB_API_KEY={SECRET}")
    keys.chmod(0o644)
    done = submit(tmp_path / "run", f"--secrets={keys}")
    assert done.exit_code == 2 and "chmod 600" in done.stderr


def test_a_run_in_the_background_is_no_task_of_what_is_left_over_in_the_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "4", "PMI_SIZE": "4"}
    left |= {"JSM_NAMESPACE_SIZE": "4", "SLURM_PROCID": "1", "SLURM_NTASKS": "8"}
    left |= {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1"}
    for name, value in (left | {"SLURM_JOB_ID": "7"}).items():
        monkeypatch.setenv(name, value)
    job = Job(tmp_path, "a", "local", folder=tmp_path)
    job.output.mkdir()
    until_ended([int(Local().submit([job], "printenv | cut -d= -f1"))])
    names = set((job.output / "local.out").read_text().split())
    assert {"PATH", "RWP_JOB", "SLURM_JOB_ID"} <= names and not names & set(left)


def test_addresses_with_secrets_are_refused_as_a_file_would_keep_them(tmp_path: Path) -> None:
    for address in (f"http://me:{SECRET}@h/t", f"http://h/t?sig={SECRET}"):
        result = submit(tmp_path / "run", f"data.train={address}")
        assert result.exit_code == 2 and "~/.netrc" in result.output
        assert SECRET not in result.output and not (tmp_path / "run").exists()


def test_a_job_of_another_version_is_not_resumed_and_says_why(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    (tmp_path / "code" / "launcher").mkdir(parents=True)
    Job(tmp_path, "a", "slurm", id="17", code=tmp_path / "code").write()
    known = json.loads(run_dir.job.read_text())
    for text in (known, {key: value for key, value in known.items() if key != "code"}):
        run_dir.job.write_text(json.dumps(text))
        with pytest.raises(ConfigError, match="another version of rwp-launch") as error:
            resubmit(run_dir)
        assert str(error.value.cure).startswith("submit the run anew")


def test_shards_that_are_not_here_are_said_at_once(tmp_path: Path, digits: list[str]) -> None:
    run, gone = tmp_path / "run", f"{tmp_path}/gone"
    said = submit(run, "variant=sgd", digits[1], f"data.train={gone}").stderr
    assert said.startswith(f"Warning: {gone} is not there on this machine")
    assert said.count("Warning") == 1
    assert wait(run, "failed") == "failed"
    assert f"{gone}: there are no shards here" in (run / "logs" / "local.out").read_text()


def test_resume_takes_a_path_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    (run / "code" / "launcher").mkdir(parents=True)
    (run / "code" / "launcher" / "__main__.py").touch()
    Job(run, "a", "slurm", code=run / "code").write()
    monkeypatch.chdir(tmp_path)
    scripts: list[str] = []
    monkeypatch.setattr(Slurm, "find", lambda self, jobs: [None])
    monkeypatch.setattr(Slurm, "submit", lambda self, jobs, script: scripts.append(script) or "17")
    assert launch("resume", "run").exit_code == 0
    assert f"RUN_DIR={run} " in scripts[0] and f"set -- {run}/submitted.yaml" in scripts[0]


def test_of_several_failed_runs_the_submitted_ones_are_listed(tmp_path: Path) -> None:
    for name in ("by hand", "submitted"):
        RunDir(tmp_path / name).write_status("failed", 1, 2)
    Job(tmp_path / "submitted", "a", "local", id="1").write()
    listed = launch("list", str(tmp_path), "--state=failed").stdout.splitlines()
    assert listed == [f"{tmp_path}/by hand", f"{tmp_path}/submitted"]
    kept = launch("list", str(tmp_path), "--state=failed", "--submitted").stdout.splitlines()
    assert kept == [f"{tmp_path}/submitted"]


@pytest.mark.parametrize("options", [(), ("--rank=0",), ("-f",)])
def test_a_run_without_a_log_says_so_or_why_it_failed(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    run_dir = RunDir(tmp_path)
    run_dir.write_status("finished", 2, 2)
    done = launch("logs", str(tmp_path), *options)
    assert done.exit_code == 1 and "there is no log" in done.stderr
    run_dir.write_status("failed", 1, 2, message="data.train: no shards")
    done = launch("logs", str(tmp_path), *options)
    assert (done.exit_code, done.stdout) == (0, "data.train: no shards\n")


def test_a_table_names_runs_by_their_path_below_what_they_share(tmp_path: Path) -> None:
    for name in ("a", "sweep/a"):
        RunDir(tmp_path / name).create()
        (tmp_path / name / "config.yaml").touch()
    lines = launch("status", str(tmp_path)).stdout.splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["a", "sweep/a"]
    (line,) = launch("status", str(tmp_path / "sweep")).stdout.splitlines()[2:]
    assert line.split()[0] == "a"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_watched_table_ends_with_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "launcher", "status", "--watch", str(tmp_path)]
    watch = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    try:
        assert watch.stdout is not None and watch.stdout.readline() == b"No runs there.\n"
        watch.send_signal(number)
        assert watch.wait(HANG_S) == {signal.SIGINT: 130, signal.SIGTERM: -signal.SIGTERM}[number]
    finally:
        watch.kill()
