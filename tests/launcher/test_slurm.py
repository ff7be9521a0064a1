"""What Slurm's versions say of a job. ``tests/slurm`` asks a real one."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launcher.backends import Found, LaunchError, backend
from launcher.backends.slurm import Slurm
from launcher.job import Job
from launcher.status import collect
from rwp_dist.rundir import RunDir

JOB = Job(Path("/runs/a"), "a", "slurm", token="token", id="17")


def queue(monkeypatch: pytest.MonkeyPatch, *jobs: dict[str, Any], scontrol: str = "") -> None:
    answers = {"squeue": json.dumps({"jobs": jobs}), "scontrol": scontrol}
    monkeypatch.setattr("launcher.backends.slurm._run", lambda command: answers[command[0]])


OLD = {"array_job_id": 0, "array_task_id": None, "array_task_string": "", "state_reason": "None"}
NEW = {
    "array_job_id": {"set": True, "infinite": False, "number": 0},
    "array_task_id": {"set": False, "infinite": False, "number": 0},
    "array_task_string": "",
    "state_reason": "None",
}


@pytest.mark.parametrize(
    ("job", "state"),
    [
        (OLD | {"job_state": "RUNNING"}, "running"),
        (NEW | {"job_state": ["RUNNING"]}, "running"),
        (NEW | {"job_state": ["RUNNING", "COMPLETING"]}, "running"),
        (NEW | {"job_state": ["COMPLETED", "COMPLETING"]}, "running"),
        (OLD | {"job_state": "COMPLETED"}, "ended"),
        (NEW | {"job_state": ["PENDING", "REQUEUED"]}, "queued"),
        (NEW | {"job_state": ["NODE_FAIL"]}, "ended"),
    ],
)
def test_a_state_is_read_as_a_word_and_as_a_list(
    job: dict[str, Any], state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue(monkeypatch, job | {"job_id": 17, "comment": "token", "nodes": "n[1-2]"})
    (found,) = Slurm().find([JOB])
    assert found is not None
    assert (found.id, found.state, found.nodes) == ("17", state, "n[1-2]")


def test_a_number_that_another_job_has_by_now_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    queue(monkeypatch, OLD | {"job_id": 17, "comment": "other", "job_state": "RUNNING"})
    assert Slurm().find([JOB]) == [None]
    queue(monkeypatch, OLD | {"job_id": 17, "comment": "", "job_state": "RUNNING"})
    assert Slurm().find([JOB]) == [Found("17", "running", "", "RUNNING")]


def test_what_has_left_the_queue_is_asked_of_scontrol(monkeypatch: pytest.MonkeyPatch) -> None:
    line = "JobId=17 JobName=a b JobState=CANCELLED Reason=None NodeList=(null) Comment=token\n"
    queue(monkeypatch, scontrol=line)
    assert Slurm().find([JOB]) == [Found("17", "ended", "", "CANCELLED")]


def test_a_task_is_told_from_those_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = {"array_job_id": 17, "array_task_string": "1-2%1", "job_state": "PENDING"}
    waiting |= {"job_id": 17, "comment": "token", "state_reason": "JobArrayTaskLimit"}
    running = OLD | {"array_job_id": 17, "array_task_id": 0, "job_state": "RUNNING"}
    running |= {"job_id": 18, "comment": "token", "nodes": "n1"}
    queue(monkeypatch, waiting, running)
    tasks = [Job(Path(f"/runs/{n}"), "a", "slurm", token="token", task=n) for n in (0, 1)]
    assert Slurm().find(tasks) == [
        Found("17", "running", "n1", "RUNNING"),
        Found("17", "queued", "", "JobArrayTaskLimit"),
    ]


def test_a_machine_without_slurm_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(LaunchError, match="log in to a node of the cluster"):
        backend("slurm").find([JOB])
    replace(JOB, run_dir=tmp_path).write()
    run_dir = RunDir(tmp_path)
    for state, shown in (("running", "unknown"), ("failed", "failed"), ("finished", "finished")):
        run_dir.write_status(state, 3, 10)
        (run,), troubles = collect([tmp_path])
        assert run.state == shown
        assert len(troubles) == 1 and "squeue: there is no such program here" in troubles[0]
