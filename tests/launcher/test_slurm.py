"""What Slurm's versions say of a job. ``tests/slurm`` asks a real one."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from launcher import logs
from launcher.backends import REFUSED, JobStatus, LaunchError, NoAnswerError, backend
from launcher.backends.slurm import Slurm
from launcher.backends.slurm_queue import _accounts
from launcher.cli import main
from launcher.job import Job, Resources, read_job
from launcher.status import collect, table
from rwp_dist.record.directory import RunDir

JOB = Job(Path("/runs/a"), "a", "slurm", token="token", id="17")


def queue(monkeypatch: pytest.MonkeyPatch, *jobs: dict[str, Any], scontrol: str = "") -> None:
    answers = {"squeue": json.dumps({"jobs": jobs}), "scontrol": scontrol, "sacct": ""}
    monkeypatch.setattr("launcher.backends.slurm_queue.run", lambda command: answers[command[0]])


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
    assert Slurm().find([JOB]) == [JobStatus("17", "running", "", "RUNNING")]


def test_what_has_left_the_queue_is_asked_of_scontrol(monkeypatch: pytest.MonkeyPatch) -> None:
    line = "JobId=17 JobName=a b JobState=CANCELLED Reason=None NodeList=(null) Comment=token\n"
    queue(monkeypatch, scontrol=line)
    assert Slurm().find([JOB]) == [JobStatus("17", "ended", "", "CANCELLED")]


def programs(folder: Path, monkeypatch: pytest.MonkeyPatch, **bodies: str) -> Path:
    """Stand-ins for Slurm's programs, with nothing in the queue; sacct's calls are in a file."""
    bodies = {"squeue": """echo '{"jobs": []}'""", "scontrol": "true"} | bodies
    for name, body in bodies.items():
        program = folder / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(
            f'#!/bin/sh\n[ {name} != sacct ] || echo "$*" >>{folder}/asked\n{body}\n'
        )
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}/bin:/usr/bin:/bin")
    _accounts.cache_clear()
    return folder / "asked"


def test_what_scontrol_has_forgotten_is_asked_of_the_accounts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts = """cat <<'END'
17|FAILED|65:0|n[1-2]|
18_0|OUT_OF_MEMORY|0:9|n1|a plugin|token
18_1|CANCELLED by 1000|0:0|None assigned|token
19|COMPLETED|0:0|n1|another
END"""
    asked = programs(tmp_path, monkeypatch, sacct=accounts)
    task = replace(JOB, id="18", task=0)
    plain = replace(JOB, token="which the accounts do not keep")
    jobs = [plain, task, replace(task, task=1), replace(JOB, id="19", token="mine"), JOB]
    jobs[-1] = replace(jobs[-1], id=None, token="lost before it had a number")
    found = Slurm().find(jobs)
    assert found == [
        JobStatus("17", "ended", "n[1-2]", "FAILED, exit code 65"),
        JobStatus("18", "ended", "n1", "OUT_OF_MEMORY, signal 9"),
        JobStatus("18", "ended", "", "CANCELLED"),
        None,  # the number is another's by now
        None,
    ]
    assert Slurm().find(jobs) == found
    (line,) = asked.read_text().splitlines()  # once, also for --watch
    assert line.startswith("--allocations ") and line.endswith(" --jobs=17,18,19")


@pytest.mark.parametrize("sacct", [None, "echo Slurm accounting storage is disabled >&2; exit 1"])
def test_without_accounts_nothing_is_said_and_the_run_directory_counts(
    sacct: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(tmp_path, monkeypatch, **({"sacct": sacct} if sacct else {}))
    run_dir = RunDir(tmp_path / "run")
    replace(JOB, run_dir=run_dir.path).write()
    for word, state in (("running", "lost"), ("failed", "failed")):
        run_dir.write_status(word, 3, 10)
        (run,), troubles = collect([run_dir.path])
        assert (run.state, troubles) == (state, [])


def test_status_says_how_a_job_ended_that_has_left_no_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(tmp_path, monkeypatch, sacct="echo '17|OUT_OF_MEMORY|0:125|n1|'")
    run_dir = RunDir(tmp_path / "run")
    replace(JOB, run_dir=run_dir.path).write()
    run_dir.write_status("running", 3, 10)
    last = table(collect([run_dir.path])[0]).splitlines()[-1]
    assert " lost " in last and last.endswith("n1 (OUT_OF_MEMORY, signal 125)")


def test_a_job_that_scancel_has_ended_is_cancelled_also_when_slurm_has_forgotten_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = RunDir(tmp_path / "run")
    replace(JOB, run_dir=run_dir.path).write()
    programs(tmp_path, monkeypatch, sacct="echo '17|CANCELLED by 7|0:0|None assigned|'")
    assert collect([run_dir.path])[0][0].state == "cancelled"
    programs(tmp_path, monkeypatch, sacct="exit 1")
    assert collect([run_dir.path])[0][0].state == "cancelled"


def test_a_task_is_told_from_those_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = {"array_job_id": 17, "array_task_string": "1-2%1", "job_state": "PENDING"}
    waiting |= {"job_id": 17, "comment": "token", "state_reason": "JobArrayTaskLimit"}
    running = OLD | {"array_job_id": 17, "array_task_id": 0, "job_state": "RUNNING"}
    running |= {"job_id": 18, "comment": "token", "nodes": "n1"}
    queue(monkeypatch, waiting, running)
    tasks = [Job(Path(f"/runs/{n}"), "a", "slurm", token="token", task=n) for n in (0, 1)]
    assert Slurm().find(tasks) == [
        JobStatus("17", "running", "n1", "RUNNING"),
        JobStatus("17", "queued", "", "JobArrayTaskLimit"),
    ]


def test_a_comment_that_the_cluster_adds_to_is_still_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    more = "site plugin: token; billing=low"
    queue(monkeypatch, OLD | {"job_id": 17, "comment": more, "job_state": "RUNNING"})
    assert Slurm().find([replace(JOB, id=None)]) == [JobStatus("17", "running", "", "RUNNING")]
    line = "JobId=17 JobState=CANCELLED NodeList=(null) Comment=site plugin: token x Power=\n"
    queue(monkeypatch, scontrol=line)
    assert Slurm().find([replace(JOB, id=None)]) == [JobStatus("17", "ended", "", "CANCELLED")]


def test_only_ones_own_jobs_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def answer(command: list[str]) -> str:
        asked.append(command)
        return json.dumps({"jobs": [OLD | {"job_id": 17, "comment": "token", "job_state": "X"}]})

    monkeypatch.setattr("launcher.backends.slurm_queue.run", answer)
    Slurm().find([JOB])
    assert asked == [["squeue", "--me", "--json"]]


def test_following_a_log_asks_the_backend_rarely_and_when_the_run_has_news(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = RunDir(tmp_path)
    replace(JOB, run_dir=tmp_path, folder=tmp_path).write()
    run_dir.logs.mkdir()
    log = run_dir.logs / "slurm-17.out"
    log.write_text("1\n")
    monkeypatch.setattr(logs, "POLL_S", 0.001)
    now = 0.0
    asked: list[float] = []

    def monotonic() -> float:  # each look at the clock is a second later
        nonlocal now
        now += 1
        if now == 95:
            run_dir.write_status("finished", 3, 3)
        return now

    monkeypatch.setattr("launcher.logs.time.monotonic", monotonic)

    def living() -> bool:
        asked.append(now)
        return now < 95

    assert list(logs.follow(run_dir, None, living)) == ["1\n"]
    *gaps, last = (later - earlier for earlier, later in pairwise(asked))
    assert len(gaps) == 5 and min(gaps) >= 15
    assert last < 15  # at its news, not at the next turn


def test_sbatch_hears_nothing_that_beats_what_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "sbatch"
    program.write_text(f"#!/bin/sh\nenv >{tmp_path}/env\necho 17\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    beaten = ("QOS", "TIMELIMIT", "ARRAY_INX", "JOB_NAME", "GPUS_PER_NODE", "SIGNAL", "OUTPUT")
    beaten += ("NO_REQUEUE", "COMMENT")
    for name in (*beaten, "PARTITION", "ACCOUNT"):
        monkeypatch.setenv(f"SBATCH_{name}", "stray")
    for name in ("CONF", "JWT", "CLUSTERS", "JOB_ID", "NNODES"):
        monkeypatch.setenv(f"SLURM_{name}", "stray")
    wants = Resources(time="1:00:00", options=("qos=high",))
    job = Job(tmp_path / "run", "run", "slurm", resources=wants, task=0)
    assert Slurm().submit([job], Slurm().render([job])) == "17"
    heard = {line.partition("=")[0] for line in (tmp_path / "env").read_text().splitlines()}
    assert {name for name in heard if name.startswith("SBATCH_")} == {
        "SBATCH_PARTITION",  # not asked for: the cluster's own habit
        "SBATCH_ACCOUNT",
    }
    assert {name for name in heard if name.startswith("SLURM_")} == {
        "SLURM_CONF",
        "SLURM_JWT",
        "SLURM_CLUSTERS",
    }


def test_a_cancel_that_was_refused_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace(JOB, run_dir=tmp_path, folder=tmp_path).write()
    listed = json.dumps(
        {"jobs": [OLD | {"job_id": 17, "comment": "token", "job_state": "RUNNING"}]}
    )
    refuses = True
    cancelled = []

    def answer(command: list[str]) -> str:
        if command[0] == "scancel":
            if refuses:
                raise LaunchError("scancel refused: Socket timed out", cure=REFUSED)
            cancelled.append(command)
        return listed

    monkeypatch.setattr("launcher.backends.slurm_queue.run", answer)

    def cancel() -> str:
        return CliRunner().invoke(main, ["cancel", str(tmp_path)]).output

    assert "scancel refused: Socket timed out" in cancel()
    assert collect([tmp_path])[0][0].state == "starting"
    refuses = False
    assert "asked to save and stop" in cancel()
    assert cancelled == [["scancel", "17"]]
    job = read_job(RunDir(tmp_path))
    assert job is not None and job.cancelled
    assert collect([tmp_path])[0][0].state == "stopping"
    cancel()  # a second signal would end it without a checkpoint
    assert len(cancelled) == 1


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
        assert len(troubles) == 1 and "squeue: there is no such program here" in str(troubles[0])


def refusal(folder: Path, monkeypatch: pytest.MonkeyPatch, says: str) -> LaunchError:
    programs(folder, monkeypatch, sbatch=f"cat >&2 <<'END'\n{says}\nEND\nexit 1")
    with pytest.raises(LaunchError) as refused:
        Slurm().submit([JOB], Slurm().render([JOB]))
    return refused.value


@pytest.mark.parametrize(
    ("says", "cure"),
    [
        ("Batch job submission failed: Invalid account or account/partition combination specified",
         "--account"),
        ("You must specify an account", "--account"),
        ("Batch job submission failed: Invalid partition name specified", "--partition"),
        ("Batch job submission failed: No partition specified or system default partition",
         "--partition"),
        ("Batch job submission failed: Invalid qos specification", "--option qos="),
        ("Invalid generic resource (gres) specification", "--option gres=gpu:8"),
        ("unrecognized option '--gpus-per-node=8'", "--option gres=gpu:8"),
        ("Batch job submission failed: Requested time limit is invalid (missing or exceeds some "
         "limit)", "--time"),
        ("Memory specification can not be satisfied", "--option mem="),
        ("Batch job submission failed: Requested node configuration is not available", "--cpus"),
        ("Batch job submission failed: something new", REFUSED),
    ],
)  # fmt: skip
def test_what_a_refused_sbatch_says_has_a_cure(
    says: str, cure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = refusal(tmp_path, monkeypatch, f"sbatch: error: {says}.")
    assert error.problem == f"sbatch refused: {says}"
    assert cure in str(error.cure)


def test_a_refusal_of_several_lines_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says = (
        "sbatch: error: invalid partition specified: x\nsbatch: error: Batch job submission failed."
    )
    error = refusal(tmp_path, monkeypatch, says)
    assert str(error) == (
        "sbatch refused: invalid partition specified: x; Batch job submission failed; choose one "
        "with --partition (sinfo lists them)."
    )


@pytest.mark.parametrize(
    "printed",
    ["17", "17;cluster", "Welcome\n17;cluster\n\nBudget: 30 h left", "Submitted batch job 17\n"],
)
def test_the_id_is_found_among_what_a_cluster_adds(
    printed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(tmp_path, monkeypatch, sbatch=f"cat <<'END'\n{printed}\nEND")
    assert Slurm().submit([JOB], "") == "17"


def test_a_submission_without_an_id_may_have_been_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(tmp_path, monkeypatch, sbatch="echo Welcome")
    with pytest.raises(NoAnswerError, match="names no job: 'Welcome"):
        Slurm().submit([JOB], "")


def test_a_slurm_that_does_not_answer_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(tmp_path, monkeypatch, squeue="exec sleep 60")
    monkeypatch.setattr("launcher.backends.slurm_queue.PATIENCE_S", 0.2)
    with pytest.raises(NoAnswerError, match="squeue has not answered within"):
        Slurm().find([JOB])


LINE = "JobId=17 JobName=a JobState=RUNNING Reason=None NodeList=n1 Comment=token"


@pytest.mark.parametrize(
    "squeue",
    [
        "echo \"squeue: unrecognized option '--json'\" >&2; exit 1",
        "echo 'squeue: fatal: Unable to find plugin: serializer/json' >&2; exit 1",
        "echo JOBID PARTITION NAME",
    ],
)
def test_a_slurm_without_json_is_asked_by_scontrol(
    squeue: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(tmp_path, monkeypatch, squeue=squeue, scontrol=f"echo '{LINE}'")
    (found,) = Slurm().find([JOB])
    assert found == JobStatus("17", "running", "n1", "RUNNING")


def test_a_place_without_scontrol_has_the_queue_and_the_accounts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(tmp_path, monkeypatch, sacct="echo '17|FAILED|1:0|n1|token'")
    (tmp_path / "bin" / "scontrol").unlink()
    for name in ("cat", "sh"):  # a machine may have a real one beside them
        (tmp_path / "bin" / name).symlink_to(f"/bin/{name}")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (found,) = Slurm().find([JOB])
    assert found == JobStatus("17", "ended", "n1", "FAILED, exit code 1")


@pytest.mark.parametrize("option", ["gres=gpu:8", "gpus=16", "gpus-per-node=a100:8"])
def test_gpus_are_asked_for_once(option: str) -> None:
    wants = Resources(options=(option,))
    script = Slurm().render([replace(JOB, resources=wants)])
    asked = [line for line in script.splitlines() if line.startswith("#SBATCH") and "gpu" in line]
    assert asked == [f"#SBATCH --{option}"]
