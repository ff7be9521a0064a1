"""One attempt of a Slurm job: the decisions that the job script leaves to Python.

``python -m launcher.attempt begin | doctor | nodes | end``, in the job's container if it has one.
Messages for people go to stderr, which is the job's log; values for the script go to stdout. The
exit code tells the script what to do:

    0          go on; after ``end``: the run is finished
    2, 65, 75  end the job with this code
    3          this attempt is over, begin another
    other      Python itself has failed

The script sets ``RWP_ATTEMPT`` to ``<job>.<attempt>``, counted from 0, and ``MAX_ATTEMPTS``. Beside
the logs (see ``diagnosis``) an attempt's folder has ``begin.tsv``, its line of ``attempts.tsv`` if
rank 0 cannot write one, and ``sick``, what the doctor said of nodes that were not fit.
"""

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import click

from launcher import alerts
from launcher.diagnosis import explain, first_failure
from launcher.limit import SAVE_S, save_seconds
from rwp_dist.base import clock
from rwp_dist.base.errors import CheckpointError, ConfigError, Interrupted
from rwp_dist.base.home import provide_home
from rwp_dist.config import load_settings, split_batch
from rwp_dist.process import streams
from rwp_dist.process.commands import Commands
from rwp_dist.process.exits import read_exits
from rwp_dist.process.paths import PATH
from rwp_dist.record.attempts import attempt_line
from rwp_dist.record.directory import RunDir

AGAIN = 3
GIVE_UP, STOP = CheckpointError.exit_code, Interrupted.exit_code
DOCTOR_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Attempt:
    """An attempt at a run: the Slurm job and how often it was started before."""

    run: RunDir
    job: str
    number: int

    @classmethod
    def here(cls, run: RunDir) -> "Attempt":
        """The attempt that this process belongs to."""
        job, _, number = os.environ["RWP_ATTEMPT"].rpartition(".")
        return cls(run, job, int(number))

    @property
    def id(self) -> str:
        """``<job>.<number>``."""
        return f"{self.job}.{self.number}"

    @property
    def previous(self) -> "Attempt":
        """The attempt before this one."""
        return Attempt(self.run, self.job, self.number - 1)

    @property
    def logs(self) -> Path:
        """Folder of the ranks' logs."""
        return self.run.logs / self.id

    @property
    def first_step(self) -> int | None:
        """The newest checkpoint's step when it began; None: it never did."""
        try:
            return int((self.logs / "begin.tsv").read_text("utf-8").split("\t")[2])
        except (OSError, IndexError, ValueError):
            return None

    @property
    def last(self) -> bool:
        """Whether no further attempt is allowed."""
        return self.number + 1 >= int(os.environ.get("MAX_ATTEMPTS", "50"))

    def begin(self) -> None:
        """Make the folder; add lines of ``attempts.tsv`` that earlier attempts did not write."""
        self.run.append_to_attempts()
        for path in sorted(self.run.logs.glob("*.*/begin.tsv"), key=lambda p: p.stat().st_mtime):
            if path.parent != self.logs:
                self._record(path)
        self.logs.mkdir(parents=True, exist_ok=True)
        step = self.run.saved_step()
        line = attempt_line(clock.now(), "lost", step, step)
        (self.logs / "begin.tsv").write_text(line, encoding="utf-8")

    def in_vain(self) -> bool:
        """Whether this attempt and the one before saved nothing new, on nodes that were fit."""
        if self.number == 0 or (self.previous.logs / "sick").exists():
            return False
        step = self.run.saved_step()
        return self.first_step == step and self.previous.first_step in (step, None)

    def over(self, outcome: str, *why: str) -> None:
        """Write down that the attempt is over; print how it ended and why, last in the log."""
        self._record(self.logs / "begin.tsv")
        _say(f"job {self.id}: {outcome}; saved up to step {self.run.saved_step()}.", *why)

    def give_up(self, outcome: str, *why: str) -> None:
        """The same if no other attempt follows, although the run is not finished; alerts."""
        self.over(outcome, *why)
        alerts.gave_up(self.run, f"Job {self.id}: {outcome}.", *why)

    def _record(self, begin: Path) -> None:
        """Add an attempt's line to ``attempts.tsv``, unless its rank 0 has done so."""
        known = [attempt["job"] for attempt in self.run.read_attempts()]
        if begin.is_file() and begin.parent.name not in known:
            self.run.append_to_attempts(begin.read_text("utf-8"))
            alerts.died_unsaved(self.run, f"Job {begin.parent.name}")

    def again(self, *why: str) -> int:
        """Ask for another attempt, if one is allowed; returns the exit code."""
        if self.last:
            self.give_up(f"given up after {self.number + 1} attempts", *why)
            return STOP
        self.over("requeued", *why)
        return AGAIN


@click.group(cls=Commands)
def main() -> None:
    """Decisions for slurm/imagenet_rwp.sh."""


@main.command()
@click.argument("config", type=PATH)
@click.argument("overrides", nargs=-1)
@click.option("--ranks", type=int, required=True)
def begin(config: Path, overrides: tuple[str, ...], ranks: int) -> None:
    """Check the settings and begin an attempt; prints the run directory."""
    settings = load_settings(config, overrides)
    split_batch(settings, ranks)
    attempt = Attempt.here(RunDir(Path(str(settings.run.dir)).resolve()))
    attempt.begin()
    start, end = (int(os.environ.get(f"SLURM_JOB_{name}_TIME", 0)) for name in ("START", "END"))
    if end > start and (left := save_seconds(end - start)) < SAVE_S:
        _say(f"job {attempt.id}: the time limit is short: ranks save and stop {left} s before it.")
    _say(
        f"job {attempt.id}: attempt {attempt.number + 1} on {os.environ['SLURM_JOB_NODELIST']}, "
        f"from step {attempt.first_step}; logs of ranks: {attempt.logs}"
    )
    click.echo(attempt.run.path)


@main.command()
@click.argument("settings", nargs=-1)
def doctor(settings: tuple[str, ...]) -> None:
    """Examine this node; prints what the doctor says, with the node's name before each line."""
    name = os.environ["SLURMD_NODENAME"]
    said = Path(os.environ["RWP_LOGS"]) / f"doctor-{name}.log"
    command = [sys.executable, "-m", "rwp_dist", "doctor", "--node", *settings]
    with said.open("wb") as output:  # no pipe: a stuck nvidia-smi would hold it open
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        with suppress(subprocess.TimeoutExpired):
            process.wait(DOCTOR_TIMEOUT_S)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    for line in said.read_text("utf-8", "replace").splitlines():
        click.echo(f"{name}: {line.removeprefix(f'{name}: ')}")


@main.command()
@click.argument("run", type=PATH)
@click.argument("names", nargs=-1)
def nodes(run: Path, names: tuple[str, ...]) -> int:
    """Read what the doctor says of all nodes from stdin; prints the nodes to leave out."""
    attempt = Attempt.here(RunDir(run))
    findings = sys.stdin.read().splitlines()
    said = {line.partition(": ")[0] for line in findings}
    fit = {line.partition(": ")[0] for line in findings if re.match(r"[^:]+: fit\b", line)}
    silent = [name for name in names if name not in said]
    findings += [f"{name}: the doctor has not come back from there." for name in silent]
    _say(*findings)
    sick = [name for name in names if name not in fit]
    if not sick:
        return 0
    why = f"Sick: {','.join(sick)}"
    every = len(sick) == len(names)
    (attempt.logs / "sick").write_text("\n".join(findings), encoding="utf-8")
    if every and (attempt.previous.logs / "sick").exists():  # then it is not the nodes
        attempt.give_up("given up, because of sick nodes", why)
        return GIVE_UP
    if not every or len(names) == 1:
        click.echo(",".join(sick))
    return attempt.again(why)


@main.command()
@click.argument("run", type=PATH)
def end(run: Path) -> int:
    """Decide what comes next from files that the ranks wrote: Slurm loses their exit codes."""
    attempt = Attempt.here(RunDir(run))
    status = attempt.run.read_status() or {}
    if status.get("state") == "finished":
        attempt.over("finished")
        return 0
    why, code = explain(first_failure(read_exits(attempt.logs)), attempt.logs)
    if code in (ConfigError.exit_code, GIVE_UP):
        attempt.give_up("given up, because it would fail again", why)
        return code
    if code == STOP and status.get("reason") == "wandb":
        attempt.over("stopped in W&B", why)
        return STOP
    if attempt.in_vain():
        attempt.give_up("given up, because two attempts saved nothing new", why)
        return GIVE_UP
    return attempt.again(why)


@main.result_callback()
def _answer(code: int | None) -> None:
    click.get_current_context().exit(code or 0)


def _say(*lines: str) -> None:
    for line in lines:
        click.echo(line, err=True)


if __name__ == "__main__":
    streams.prepare()
    provide_home()
    main()
