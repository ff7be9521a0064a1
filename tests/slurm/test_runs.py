"""The job script on a real cluster of two nodes: two runs at once, and a time limit."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.cluster import NODES, Cluster
from support.jobs import Job
from support.until import until

KEY = "nobody-may-see-" + 24 * "x"  # not in one piece: a submission keeps the code's diff
EPOCHS = 40
STEPS = 4 * EPOCHS
SCHEDULE = f"schedule.epochs={EPOCHS}"


@pytest.fixture(scope="module")
def jobs(cluster: Cluster, work: Path) -> Iterator[tuple[Job, Job, list[str], bool]]:
    """Two jobs at once on the same nodes, one with a key, and the process list meanwhile."""
    secrets = work.parent / "secrets"
    secrets.write_text(f"WANDB_API_KEY={KEY}\nRWP_WEBHOOK=http://127.0.0.1:9/{KEY}\n")
    secrets.chmod(0o600)
    plain = Job(cluster, work, "plain", SCHEDULE)
    keyed = Job(cluster, work, "keyed", SCHEDULE, "tracking.wandb=offline", SECRETS=str(secrets))
    seen, inherited = [], False

    def ended() -> bool:
        nonlocal inherited
        seen.append(subprocess.run(["ps", "axww"], capture_output=True, text=True).stdout)
        inherited = inherited or bool(cluster.processes_of(KEY))
        gone = {plain.state(), keyed.state()} & {"FAILED", "CANCELLED"}
        return bool(gone) or (plain.run.summary.exists() and keyed.run.summary.exists())

    until(ended, "the end of both jobs", timeout_s=300, every_s=0.1)
    yield plain, keyed, seen, inherited


def test_two_jobs_at_once_finish_on_nodes_whose_names_do_not_resolve(
    jobs: tuple[Job, Job, list[str], bool],
) -> None:
    assert all(subprocess.run(["getent", "ahosts", name]).returncode for name in NODES)
    for job in jobs[:2]:
        assert job.end() == "COMPLETED", job.log()
        assert job.log()[-1] == f"job {job.id}.0: finished; saved up to step {STEPS}."
        (attempt,) = job.run.read_attempts()
        assert attempt["job"] == f"{job.id}.0" and attempt["nodes"] == "n[1-2]"
        assert (job.run.read_environment() or {})["world_size"] == len(NODES)
        assert (job.run.logs / f"{job.id}.0" / "rank-1.log").is_file()


def test_a_key_is_in_the_ranks_environment_and_nowhere_else(
    jobs: tuple[Job, Job, list[str], bool], cluster: Cluster, work: Path
) -> None:
    _, keyed, seen, inherited = jobs
    keyed.end()
    assert inherited
    assert any("rwp_dist train" in text for text in seen)
    assert not any(KEY in text for text in seen)
    written = [p for top in (work, cluster.folder) for p in top.rglob("*") if p.is_file()]
    assert keyed.run.config in written and any("spool" in str(p) for p in written)
    assert [p for p in written if KEY.encode() in p.read_bytes()] == []


def test_a_time_limit_saves_requeues_and_ends_with_the_weights_of_an_undisturbed_run(
    jobs: tuple[Job, Job, list[str], bool], cluster: Cluster, work: Path
) -> None:
    job = Job(cluster, work, "limited", SCHEDULE)
    job.until_step(10)
    cluster.run("scancel", "--batch", "--signal=USR1", str(job.id))  # as Slurm does before the end
    job.until_line(": requeued; ")
    stopped = job.step()
    assert 10 <= stopped == job.saved() < STEPS
    cluster.start_again(job.id)
    assert job.end() == "COMPLETED", job.log()
    assert job.log()[-1] == f"job {job.id}.1: finished; saved up to step {STEPS}."
    first, second = job.run.read_attempts()
    assert (first["state"], first["last_step"]) == ("interrupted", str(stopped))
    assert (second["state"], second["first_step"]) == ("finished", str(stopped))

    undisturbed, disturbed = (
        torch.load(j.run.checkpoints / f"step-{STEPS:08d}.pt", weights_only=True)
        for j in (jobs[0], job)
    )
    for part in ("weights", "buffers"):
        assert disturbed[part].keys() == undisturbed[part].keys()
        for name, value in undisturbed[part].items():
            assert torch.equal(disturbed[part][name], value), name
    for name in ("top1", "loss"):
        summaries = [j.run.read_summary() or {} for j in (jobs[0], job)]
        assert summaries[0][name] == summaries[1][name]
