"""What the job script is told: how an attempt begins, which nodes are fit, and what comes next."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.receiver import TOKEN, Receiver
from support.until import HANG_S

from launcher.attempt import AGAIN, main
from rwp_dist.config import dump_settings, load_settings
from rwp_dist.record.directory import RunDir

CONFIG = """
data: {train: shards/train, val: shards/val}
model: {name: small_cnn, num_classes: 4}
batch: {global: 24, per_rank: 12}
schedule: {epochs: 1}
"""


class Job:
    """Job 17, of which each step is in an attempt of this number."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.run = RunDir(folder / "run")
        self._patch = patch
        (folder / "my.yaml").write_text(CONFIG)
        patch.chdir(folder)
        patch.setenv("SLURM_JOB_NODELIST", "n[1-2]")

    def ask(self, number: int, *arguments: str, stdin: str = "", job: int = 17) -> Result:
        self._patch.setenv("RWP_ATTEMPT", f"{job}.{number}")
        return CliRunner().invoke(main, list(arguments), input=stdin, catch_exceptions=False)

    def begin(self, number: int, *overrides: str, job: int = 17) -> Result:
        arguments = ("begin", "my.yaml", "run.dir=run", *overrides, "--ranks", "2")
        return self.ask(number, *arguments, job=job)

    def end(self, number: int) -> Result:
        return self.ask(number, "end", str(self.run.path))

    def nodes(self, number: int, findings: str, *names: str) -> Result:
        return self.ask(
            number, "nodes", str(self.run.path), *(names or ("n1", "n2")), stdin=findings
        )

    def save(self, step: int) -> None:
        self.run.checkpoints.mkdir(parents=True, exist_ok=True)
        (self.run.checkpoints / f"step-{step:08d}.pt").touch()

    def fail(self, number: int, exit_code: int = 1, message: str = "KeyError: 'a'") -> None:
        path = self.run.logs / f"17.{number}" / "agents" / "0" / "error.json"
        path.parent.mkdir(parents=True)
        word = {"rank": 0, "host": "n1", "message": message, "exit_code": exit_code, "time": 1.0}
        path.write_text(json.dumps(word | {"shared": True}))


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    return Job(tmp_path, monkeypatch)


def test_an_attempt_begins_with_where_it_is_and_prints_the_run_directory(job: Job) -> None:
    job.save(30)
    begun = job.begin(2)
    assert begun.exit_code == 0 and begun.stdout == f"{job.run.path}\n"
    logs = job.run.logs / "17.2"
    assert begun.stderr == (f"job 17.2: attempt 3 on n[1-2], from step 30; logs of ranks: {logs}\n")
    assert logs.is_dir()
    assert job.run.attempts.read_text().startswith("started\tstate\tfirst_step")
    assert job.run.read_attempts() == []


def test_all_that_is_wrong_with_the_settings_is_said(job: Job) -> None:
    begun = job.begin(0, "method.nam=sgd", "schedule.epochs=0")
    assert begun.exit_code == 2 and "2 errors" in begun.stderr
    assert not job.run.path.exists()
    assert job.begin(0, "batch.global=23").exit_code == 2  # not for two ranks


def test_a_short_time_limit_is_said(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_START_TIME", "1000")
    for end, said in (("1480", "save and stop 120 s before it"), ("3400", ""), ("0", "")):
        monkeypatch.setenv("SLURM_JOB_END_TIME", end)
        text = job.begin(0).stderr
        assert (said in text) and ("time limit" in text) == bool(said)


def test_an_attempt_without_a_line_of_its_own_gets_one_when_the_next_begins(job: Job) -> None:
    job.begin(0)
    job.save(10)
    job.begin(0, job=18)  # submitted again
    job.begin(1, job=18)
    job.begin(1, job=18)  # and never twice
    lines = [(a["job"], a["state"], a["first_step"]) for a in job.run.read_attempts()]
    assert lines == [("17.0", "lost", "0"), ("18.0", "lost", "10")]


def test_a_crash_means_another_attempt(job: Job) -> None:
    job.begin(0)
    job.fail(0)
    ended = job.end(0)
    assert ended.exit_code == AGAIN and ended.stdout == ""
    assert ended.stderr == "job 17.0: requeued; saved up to step 0.\nKeyError: 'a'\n"
    assert [a["state"] for a in job.run.read_attempts()] == ["lost"]


def test_two_attempts_in_a_row_that_save_nothing_new_are_the_end(job: Job) -> None:
    for number, code in enumerate((AGAIN, AGAIN, 65)):
        job.begin(number)
        job.fail(number)
        if number == 0:
            job.save(10)
        assert job.end(number).exit_code == code
    job.begin(3)
    job.fail(3)
    job.save(20)
    assert job.end(3).exit_code == AGAIN


def test_an_attempt_that_could_not_even_begin_has_saved_nothing(job: Job) -> None:
    job.begin(1)
    job.fail(1)
    ended = job.end(1)
    assert ended.exit_code == 65 and "two attempts saved nothing new" in ended.stderr


@pytest.mark.parametrize("code", [2, 65])
def test_what_would_fail_again_is_not_tried_again(job: Job, code: int) -> None:
    job.begin(0)
    job.fail(0, code, "run.dir: holds another run.")
    ended = job.end(0)
    assert ended.exit_code == code
    assert ended.stderr.splitlines()[-1] == "run.dir: holds another run."


def test_a_stop_goes_on_unless_it_came_from_wandb(job: Job) -> None:
    job.begin(0)
    job.fail(0, 75, "Stopped after step 3.")
    job.run.write_status("interrupted", 3, 10)
    assert job.end(0).exit_code == AGAIN
    job.run.write_status("interrupted", 3, 10, reason="wandb")
    ended = job.end(0)
    assert ended.exit_code == 75 and "stopped in W&B" in ended.stderr


def test_a_finished_run_is_finished_whatever_an_agent_says(job: Job) -> None:
    job.begin(0)
    job.fail(0)
    job.save(10)
    job.run.write_status("finished", 10, 10)
    ended = job.end(0)
    assert (ended.exit_code, ended.stderr) == (0, "job 17.0: finished; saved up to step 10.\n")


def test_the_budget_of_attempts_is_kept(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_ATTEMPTS", "1")
    job.begin(0)
    job.fail(0)
    ended = job.end(0)
    assert ended.exit_code == 75 and "given up after 1 attempts" in ended.stderr
    assert job.nodes(0, "n1: fit\nn2: problem: a GPU\n").exit_code == 75


# --- nodes ---


def doctor(folder: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> Result:
    """Of node n1, where this is run in the doctor's place."""
    (folder / "sitecustomize.py").write_text(
        f"import os, sys, time\nif 'doctor' in sys.orig_argv: {code}"
    )
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    monkeypatch.setenv("RWP_LOGS", str(folder))
    return CliRunner().invoke(main, ["doctor", "my.yaml", "a=1"], catch_exceptions=False)


def test_a_node_says_its_name_in_every_line_and_gets_the_runs_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = doctor(
        tmp_path,
        "print(sys.orig_argv[-4:], 'n1: fit', sep='\\n'); sys.stdout.flush(); os._exit(0)",
        monkeypatch,
    )
    assert asked.stdout.splitlines() == ["n1: ['doctor', '--node', 'my.yaml', 'a=1']", "n1: fit"]


def test_a_doctor_that_hangs_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launcher.attempt.DOCTOR_TIMEOUT_S", 1.0)
    begin = time.monotonic()
    assert (
        doctor(
            tmp_path, "os.fork() or print('GPU 0', flush=True); time.sleep(3600)", monkeypatch
        ).stdout
        == "n1: GPU 0\n"
    )
    assert time.monotonic() - begin < HANG_S


def test_fit_nodes_are_used(job: Job) -> None:
    job.begin(0)
    asked = job.nodes(0, "n1: fit\nn2: advice: slow\nn2: fit, but for that\n")
    assert (asked.exit_code, asked.stdout) == (0, "")
    assert "n2: advice: slow" in asked.stderr


def test_a_sick_node_and_a_silent_one_are_named_and_left_out(job: Job) -> None:
    job.begin(0)
    asked = job.nodes(0, "n1: problem: a GPU is gone\nn3: fit\n", "n1", "n2", "n3")
    assert (asked.exit_code, asked.stdout) == (AGAIN, "n1,n2\n")
    assert "n2: the doctor has not come back from there." in asked.stderr
    assert asked.stderr.splitlines()[-1] == "Sick: n1,n2"


def test_if_all_nodes_are_sick_twice_it_is_not_the_nodes(job: Job) -> None:
    job.begin(0)
    asked = job.nodes(0, "")
    assert (asked.exit_code, asked.stdout) == (AGAIN, "")  # where would it run without them?
    job.begin(1)
    assert job.nodes(1, "").exit_code == 65


def test_sick_nodes_are_no_fault_of_the_run(job: Job) -> None:
    job.begin(0)
    assert job.nodes(0, "n1: fit\n").exit_code == AGAIN
    job.begin(1)
    job.fail(1)
    assert job.end(1).exit_code == AGAIN


def test_one_node_alone_is_left_out(job: Job) -> None:
    job.begin(0)
    assert job.nodes(0, "n1: problem: a GPU\n", "n1").stdout == "n1\n"


# --- alerts ---


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with Receiver() as receiver:
        monkeypatch.setenv("RWP_WEBHOOK", receiver.url)
        yield receiver


def test_a_run_that_is_given_up_is_told_once_with_the_reason(job: Job, site: Receiver) -> None:
    job.begin(0)
    job.fail(0)
    assert job.end(0).exit_code == AGAIN and site.posted == []
    job.begin(1)
    job.fail(1)
    ended = job.end(1)
    assert ended.exit_code == 65
    assert site.kinds == ["gave_up"]
    assert site.posted[0]["run"] == "run" and site.posted[0]["level"] == "ERROR"
    text = site.posted[0]["text"]
    assert text.startswith("run: Given up. Job 17.1: given up, because two attempts saved nothing")
    assert "KeyError: 'a'" in text and text.endswith(f"\nDirectory: {job.run.path}")
    assert TOKEN not in ended.output + text


def test_a_run_that_a_person_stopped_or_that_is_finished_is_not_given_up(
    job: Job, site: Receiver
) -> None:
    job.begin(0)
    job.fail(0, 75, "Stopped after step 3.")
    job.run.write_status("interrupted", 3, 10, reason="wandb")
    assert job.end(0).exit_code == 75
    job.run.write_status("finished", 10, 10)
    assert job.end(0).exit_code == 0
    assert site.posted == []


def test_updates_that_die_with_an_attempt_are_told_once(job: Job, site: Receiver) -> None:
    """A time limit, a lost node, an empty memory: rank 0 says nothing any more."""
    job.begin(0)
    job.save(10)
    job.run.write_status("running", 34, 100)
    job.begin(1)  # the job itself was killed, so nobody has asked for an end
    assert site.kinds == ["missed_checkpoint"]
    assert site.posted[0]["text"] == (
        "run: A checkpoint is missing. Job 17.0 was killed at step 34 or later, without a "
        "checkpoint: 24 updates since step 10 are lost."
    )
    job.save(40)
    job.run.write_status("failed", 44, 100, message="KeyError: 'a'")  # it could say why
    job.begin(2)
    job.run.write_status("running", 40, 100)  # nothing is lost
    job.begin(3)
    assert site.kinds == ["missed_checkpoint"]


def test_only_alerts_that_the_settings_ask_for_are_told(job: Job, site: Receiver) -> None:
    settings = load_settings(job.run.path.parent / "my.yaml", ["tracking.alerts=[finished]"])
    job.run.path.mkdir()
    job.run.write_config(dump_settings(settings))
    job.begin(1)
    job.fail(1, 65)
    assert job.end(1).exit_code == 65
    assert site.posted == []


def test_a_webhook_that_is_dead_or_wrong_changes_no_decision(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rwp_dist.process.webhook.PAUSES_S", (0.01, 0.01))
    for number, url in enumerate((f"http://127.0.0.1:9/{TOKEN}", TOKEN)):
        monkeypatch.setenv("RWP_WEBHOOK", url)
        job.begin(number)
        job.fail(number, 65)
        ended = job.end(number)
        assert ended.exit_code == 65
        assert "RWP_WEBHOOK" in ended.stderr and TOKEN not in ended.stderr
