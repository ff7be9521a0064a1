"""The job script on a real cluster: what is saved, what is started again, and what is not."""

import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
from support.cluster import Cluster
from support.jobs import Job

from rwp_dist.record.directory import RunDir

ENDLESS = "schedule.epochs=100000"


def test_wrong_settings_end_the_job_with_their_message_last(cluster: Cluster, work: Path) -> None:
    job = Job(cluster, work, "wrong", "method.nam=sgd", "schedule.epochs=0")
    assert job.end() == "FAILED"
    about = cluster.job(job.id)
    assert (about["ExitCode"], about["Restarts"]) == ("2:0", "0")
    assert job.log()[-3] == "tiny.yaml: 2 errors"
    assert "did you mean method.name?" in job.log()[-2]


def test_secrets_that_others_can_read_are_refused(cluster: Cluster, work: Path) -> None:
    secrets = work.parent / "open"
    secrets.write_text("WANDB_API_KEY=1\n")
    secrets.chmod(0o640)
    job = Job(cluster, work, "open", SECRETS=str(secrets))
    assert job.end() == "FAILED"
    assert cluster.job(job.id)["ExitCode"] == "2:0"
    assert job.log()[-1].endswith("or others may read it; chmod 600 it.")


def site(folder: Path, code: str) -> str:
    """A site profile under which every process of Python first runs this."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    profile = folder / "site.sh"
    profile.write_text(f"export PYTHONPATH={folder}\n")
    return str(profile)


NO_SETTINGS = """
import os, sys
if "begin" in sys.orig_argv:
    os._exit(7)
"""

CANCELLED_WHILE_REQUEUED = """#!/bin/bash
trap "" TERM  # the signal may come before the request has left; this is about a later one
[ "$1" != requeue ] || scancel "$SLURM_JOB_ID"
exec {scontrol} "$@"
"""


def test_settings_that_cannot_be_read_twice_end_the_job(cluster: Cluster, work: Path) -> None:
    job = Job(cluster, work, "unread", nodes=1, SITE=site(work.parent / "unread", NO_SETTINGS))
    cluster.start_again(job.id)
    assert job.end() == "FAILED"
    about = cluster.job(job.id)
    assert (about["ExitCode"], about["Restarts"]) == ("65:0", "1")
    why = "because launcher.attempt has failed (exit code 7)"
    assert job.log()[0] == f"job {job.id}.0: requeued, {why}."
    assert job.log()[-1] == f"job {job.id}.1: given up, {why} again."


def test_a_cancellation_that_overtakes_a_requeue_stands(cluster: Cluster, work: Path) -> None:
    profile = site(work.parent / "overtaken", NO_SETTINGS)
    scontrol = Path(profile).with_name("scontrol")
    scontrol.write_text(CANCELLED_WHILE_REQUEUED.format(scontrol=shutil.which("scontrol")))
    scontrol.chmod(0o755)
    with Path(profile).open("a") as file:
        file.write(f"export PATH={scontrol.parent}:$PATH\n")
    job = Job(cluster, work, "overtaken", nodes=1, SITE=profile)
    assert job.end() == "CANCELLED"
    job.until_line(f"job {job.id}.0: terminated")
    time.sleep(2)
    about = cluster.job(job.id)
    assert (about["JobState"], about["Restarts"]) == ("CANCELLED", "0")


def test_a_cancellation_right_after_a_requeue_stands(cluster: Cluster, work: Path) -> None:
    job = Job(cluster, work, "after", nodes=1, SITE=site(work.parent / "after", NO_SETTINGS))
    cluster.wait(job.id, "PENDING", restarts=1)
    cluster.run("scancel", str(job.id))
    time.sleep(2)
    about = cluster.job(job.id)
    assert (about["JobState"], about["Restarts"]) == ("CANCELLED", "1")


SICK_AT_FIRST = """
import os, sys
if "--node" in sys.orig_argv and "SLURM_RESTART_COUNT" not in os.environ:
    print("problem: a GPU has fallen off the bus.", flush=True)
    os._exit(1)
"""


def test_a_sick_node_is_named_and_left_out(cluster: Cluster, work: Path) -> None:
    profile = site(work.parent / "sick", SICK_AT_FIRST)
    job = Job(
        cluster, work, "sick", "schedule.epochs=1", "batch.per_rank=24", nodes=1, SITE=profile
    )
    cluster.start_again(job.id)
    assert job.end() == "COMPLETED"
    first, second = (attempt["nodes"] for attempt in job.run.read_attempts())
    assert {first, second} == {"n1", "n2"}
    assert cluster.job(job.id)["ExcNodeList"] == first
    assert f"{first}: problem: a GPU has fallen off the bus." in job.log()


CRASHING = """
import os, sys, types
if "RANK" in os.environ:
    fake = types.ModuleType("rwp_dist.sweep")
    def run_all(runs, session):
        import torch.distributed as dist
        dist.init_process_group("gloo")
        dist.barrier()
        if dist.get_rank() == 1:
            raise ZeroDivisionError("of weights")
        dist.barrier()
    fake.run_all = run_all
    sys.modules["rwp_dist.sweep"] = fake
"""


def test_a_crash_loop_ends_after_two_attempts_with_the_error_and_log_of_the_rank(
    cluster: Cluster, work: Path
) -> None:
    job = Job(cluster, work, "crashing", SITE=site(work.parent / "broken", CRASHING))
    cluster.start_again(job.id)
    assert job.end() == "FAILED"
    about = cluster.job(job.id)
    assert (about["ExitCode"], about["Restarts"]) == ("65:0", "1")
    for attempt, outcome in enumerate(("requeued", "given up, because two attempts saved nothing")):
        log = job.run.logs / f"{job.id}.{attempt}" / "rank-1.log"
        assert "Traceback" in log.read_text()
        lines = job.log()
        (at,) = (i for i, line in enumerate(lines) if f"job {job.id}.{attempt}: {outcome}" in line)
        end = lines.index(f"Its log: {log}")
        assert at < end < at + 30
        # torchrun numbers the nodes as they come.
        assert re.fullmatch(
            r"Rank 1 on n[12] failed: ZeroDivisionError: of weights", lines[end - 1]
        )
    assert lines[-1] == f"Its log: {log}"
    assert [a["state"] for a in job.run.read_attempts()] == ["lost", "lost"]


ONE_GOES_ON = """
import os, sys, time, types
if "RANK" in os.environ:
    from rwp_dist.base.errors import ReplicaError
    fake = types.ModuleType("rwp_dist.sweep")
    def run_all(runs, session):
        task = int(os.environ["SLURM_ARRAY_TASK_ID"])
        time.sleep(0 if task else 300)
        raise ReplicaError("of weights") if task == 1 else ZeroDivisionError("of weights")
    fake.run_all = run_all
    sys.modules["rwp_dist.sweep"] = fake
"""


def test_a_task_of_an_array_is_requeued_without_the_others(cluster: Cluster, work: Path) -> None:
    profile = site(work.parent / "array", ONE_GOES_ON)
    with Path(profile).open("a") as file:
        file.write('RUN_DIR="$RUN_DIR-$SLURM_ARRAY_TASK_ID"\n')
    # The last task has the array's own number.
    array = {"SBATCH_ARRAY_INX": "0-2", "SITE": profile}
    job = Job(cluster, work, "array", "batch.per_rank=24", nodes=1, **array)
    cluster.wait(f"{job.id}_0", "RUNNING")
    cluster.run("scancel", f"{job.id}_0")
    assert cluster.wait(f"{job.id}_2", "PENDING", restarts=1)
    assert cluster.wait(f"{job.id}_1", "COMPLETED", "FAILED") == "FAILED"
    time.sleep(1)
    about = [cluster.job(f"{job.id}_{task}") for task in range(3)]
    assert [a["JobState"] for a in about] == ["CANCELLED", "FAILED", "PENDING"]
    assert [a["Restarts"] for a in about] == ["0", "0", "1"]
    assert about[1]["ExitCode"] == "65:0" and about[2]["JobId"] == str(job.id)
    cluster.run("scancel", str(job.id))


STOPPED_IN_WANDB = """
import os
if "RANK" in os.environ:
    from rwp_dist.tracking.jsonl import JsonLines
    JsonLines.stop_requested = property(lambda self: self.run_dir.has_checkpoint())
"""


def test_a_stop_in_wandb_is_for_good(cluster: Cluster, work: Path) -> None:
    profile = site(work.parent / "stopped", STOPPED_IN_WANDB)
    job = Job(cluster, work, "stopped", ENDLESS, "batch.per_rank=24", nodes=1, SITE=profile)
    assert job.end() == "FAILED"
    about = cluster.job(job.id)
    assert (about["ExitCode"], about["Restarts"]) == ("75:0", "0")
    assert f"job {job.id}.0: stopped in W&B; saved up to step {job.saved()}." in job.log()
    assert job.saved() > 0


def test_a_lock_of_a_lost_node_is_waited_for(cluster: Cluster, work: Path) -> None:
    settings = ("schedule.epochs=1", "batch.per_rank=24")
    with RunDir(work / "held").locked():
        job = Job(cluster, work, "held", *settings, nodes=1)
        job.until_line(f"job {job.id}.0: requeued; ")
        assert any("is being trained already" in line for line in job.log())
    cluster.start_again(job.id)
    assert job.end() == "COMPLETED"


@pytest.fixture(scope="module")
def job(cluster: Cluster, work: Path) -> Job:
    """One job that these tests disturb one after another."""
    return Job(cluster, work, "disturbed", ENDLESS)


def test_a_time_limit_while_ranks_start_is_obeyed_once_they_can(cluster: Cluster, job: Job) -> None:
    job.until_line("attempt 1 on n[1-2], from step 0")
    cluster.run("scancel", "--batch", "--signal=USR1", str(job.id))
    job.until_line(f"job {job.id}.0: requeued; ")
    assert job.step() == job.saved() > 0


def ranks_of(cluster: Cluster, job: Job) -> list[int]:
    """Ranks, their data workers and their agents."""
    pids = cluster.processes_of(f"run.dir={job.run.path}\0")
    return [pid for pid in pids if b"rwp_dist" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def agents_of(cluster: Cluster, job: Job) -> list[int]:
    ranks = ranks_of(cluster, job)
    return [p for p in ranks if b"launcher.agent" in Path(f"/proc/{p}/cmdline").read_bytes()]


def test_nothing_is_left_soon_after_kill_9_of_an_agent(cluster: Cluster, job: Job) -> None:
    attempt = cluster.start_again(job.id)
    job.until_step(job.saved() + 10)
    # Data workers begin anew with every epoch, and these are short.
    job.until(lambda: len(ranks_of(cluster, job)) >= 6, "two agents, ranks and workers")
    os.kill(max(agents_of(cluster, job)), signal.SIGKILL)
    begin = time.monotonic()
    job.until(lambda: not ranks_of(cluster, job), "the end of all processes")
    took = time.monotonic() - begin
    job.until_line(f"job {job.id}.{attempt}: requeued; ")  # before a failure, for the tests below
    assert took < 15  # Slurm would give 20 s (KillWait), torchrun 30 s, srun 60 s


def test_a_node_that_goes_down_means_another_attempt(cluster: Cluster, job: Job) -> None:
    attempt = cluster.start_again(job.id)
    job.until_step(job.saved() + 10)
    cluster.run("scontrol", "update", "node=n2", "state=down", "reason=test")
    cluster.wait(job.id, "PENDING", restarts=attempt + 1)
    cluster.back_to_service("n2")


def test_a_preemption_which_signals_the_steps_alone_means_another_attempt(
    cluster: Cluster, job: Job
) -> None:
    attempt = cluster.start_again(job.id)
    job.until_step(job.saved() + 10)
    cluster.run("scancel", "--signal=TERM", str(job.id))  # not --batch: as in a GraceTime
    job.until_line(f"job {job.id}.{attempt}: requeued; ")
    job.until(lambda: (job.run.read_status() or {})["state"] == "interrupted", "its end")


def test_scancel_saves_and_stays_cancelled(cluster: Cluster, job: Job) -> None:
    attempt = cluster.start_again(job.id)
    job.until_step(job.saved() + 10)
    cluster.run("scancel", str(job.id))
    assert job.end() == "CANCELLED"
    job.until_line(f"job {job.id}.{attempt}: terminated; ")
    status = job.run.read_status() or {}
    assert status["state"] == "interrupted"
    assert status["step"] == job.saved()
    assert job.log()[-1] == f"job {job.id}.{attempt}: terminated; saved up to step {job.saved()}."
    time.sleep(3)
    assert job.state() == "CANCELLED"
    assert ranks_of(cluster, job) == []
    attempts = job.run.read_attempts()
    assert [a["job"] for a in attempts] == [f"{job.id}.{number}" for number in range(attempt + 1)]
    assert attempts[0]["state"] == attempts[-1]["state"] == "interrupted"
