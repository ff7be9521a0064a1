"""rwp-launch on a real cluster of two nodes, without accounting."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.cluster import Cluster
from support.until import until

from launcher.backends.slurm import Slurm
from launcher.cli import main
from launcher.job import Job, read_job
from launcher.status import collect
from rwp_dist.compare import compare
from rwp_dist.record.directory import RunDir

SHARED = ("--gpus=0", "--cpus=1", "--option=exclusive=user", "tiny.yaml")
SECRET = "planted-" + 24 * "x"  # not in one piece: a submission keeps the code's diff


@pytest.fixture
def at_work(cluster: Cluster, work: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """In the folder to submit from, with the cluster as this machine's."""
    monkeypatch.setenv("SLURM_CONF", cluster.env["SLURM_CONF"])
    monkeypatch.chdir(work)
    yield work
    launch("cancel", str(work))


def launch(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False)


def state(run: Path) -> str:
    (found,), troubles = collect([run])
    assert not troubles
    return found.state


def wait(run: Path, *states: str) -> str:
    def found() -> str:
        return now if (now := state(run)) in states else ""

    return until(found, f"{states} of {run}", every_s=0.5)


def test_a_run_over_two_nodes_from_submission_to_cancel(
    cluster: Cluster, at_work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    keys = at_work / "keys"
    keys.write_text(f"ANOTHER_KEY={SECRET}\n")
    keys.chmod(0o600)
    run = at_work / "launched"
    submit = ("submit", *SHARED, "--nodes=2", f"run.dir={run}", "schedule.epochs=100000")
    submit += (f"--secrets={keys}",)
    script = launch(*submit, "--dry-run").stdout
    assert not run.exists()
    done = launch(*submit)
    assert done.exit_code == 0, done.output
    job = read_job(RunDir(run))
    assert job is not None and done.stdout == f"slurm {job.id}: {run}\n"
    # What Slurm keeps is what the dry run has printed.
    cluster.run("scontrol", "write", "batch_script", str(job.id), str(at_work / "kept.sh"))
    assert (at_work / "kept.sh").read_text() == script

    refused = launch(*submit)
    assert refused.exit_code == 2 and f"has a job already (slurm {job.id}" in refused.stderr
    wait(run, "running")
    assert '"train"' in (run / "metrics.jsonl").read_text()
    columns = re.split(r"  +", launch("status", str(run)).stdout.splitlines()[-1])
    assert columns[:2] == ["launched", "running"] and columns[-2:] == ["1", "n[1-2]"]
    assert (run / "logs" / f"{job.id}.0" / "rank-1.log").is_file()

    listed = subprocess.run(["ps", "axwww", "-o", "args="], capture_output=True, text=True)
    assert str(run) in listed.stdout and SECRET not in listed.stdout
    assert len(cluster.processes_of(f"ANOTHER_KEY={SECRET}")) >= 2  # the ranks have it
    follow = subprocess.Popen(
        [sys.executable, "-m", "launcher", "logs", "-f", str(run)],
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert follow.stdout is not None
    assert f"job {job.id}.0: attempt 1 on n[1-2]" in follow.stdout.readline()
    assert launch("cancel", str(run)).exit_code == 0
    printed, _ = follow.communicate(timeout=90)
    assert printed.splitlines()[-1].startswith(f"job {job.id}.0: terminated; saved up to step ")
    assert wait(run, "cancelled") == "cancelled"
    assert RunDir(run).has_checkpoint()

    planted = subprocess.run(["grep", "-rl", SECRET, str(run)], capture_output=True, text=True)
    assert planted.stdout == ""


def test_a_cluster_without_accounts_says_nothing_of_jobs_that_it_has_forgotten(
    cluster: Cluster, at_work: Path
) -> None:
    assert subprocess.run(["sacct"], capture_output=True, env=cluster.env).returncode != 0
    run = RunDir(at_work / "forgotten")
    Job(run.path, "forgotten", "slurm", id="999999999").write()
    run.write_status("running", 3, 10)
    assert state(run.path) == "lost"  # and no trouble


def test_a_crash_between_submission_and_book_keeping_loses_no_job(
    cluster: Cluster, at_work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = at_work / "crashed"
    submit = ("submit", *SHARED, "--option=hold", f"run.dir={run}", "batch.per_rank=24")
    really = Slurm.submit

    def crash_after(self: Slurm, jobs, script: str) -> str:
        really(self, jobs, script)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Slurm, "submit", crash_after)
        launch(*submit)
    job = read_job(RunDir(run))
    assert job is not None and job.id is None
    assert state(run) == "queued"
    job = read_job(RunDir(run))
    assert job is not None and job.id is not None
    assert cluster.job(int(job.id))["JobName"] == "m-arwp-s0"
    launch("cancel", str(run))
    assert wait(run, "cancelled") == "cancelled"
    again = launch("resume", str(run))
    assert again.exit_code == 0 and state(run) == "queued"


def test_a_sweep_is_one_array_and_ends_in_a_table(cluster: Cluster, at_work: Path) -> None:
    folder = at_work / "a sweep"
    settings = ("schedule.epochs=1", "evaluation.every_epochs=1", "batch.per_rank=24")
    sweep = ("sweep", *SHARED, *settings, "--backend=slurm", f"--dir={folder}", "--seeds=2")
    methods = "--grid=method.name=sgd,m-rwp,sgd"  # sgd twice: trained once
    done = launch(*sweep, methods, "--parallel=2")
    assert done.exit_code == 0, done.output
    runs = [Path(line.partition(": ")[2]) for line in done.stdout.splitlines()]
    assert [run.name for run in runs] == [
        f"{method}-s{seed}" for seed in (0, 1) for method in ("sgd", "m-rwp")
    ]
    jobs = [read_job(RunDir(run)) for run in runs]
    assert len({job.id for job in jobs if job}) == 1
    again = launch(*sweep, methods)
    assert again.exit_code == 2 and "every run of the sweep" in again.stderr
    for run in runs:
        assert wait(run, "finished", "failed", "lost") == "finished"
    assert launch("logs", str(runs[0])).stdout.splitlines()[-1].endswith("saved up to step 4.")
    rows = compare([folder], at_work / "table").splitlines()
    assert [row.split()[0] for row in rows[3:5]] == ["sgd", "m-rwp"]
    assert [row.split()[-1] for row in rows[3:5]] == ["2", "2"]  # n
