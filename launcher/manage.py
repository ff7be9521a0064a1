"""Commands about runs that have been started: status, list, logs, cancel, resume."""

import sys
import time
from pathlib import Path

import click

from launcher.job import STATES
from rwp_dist.base.errors import ConfigError
from rwp_dist.process import signals, streams
from rwp_dist.process.paths import PATH
from rwp_dist.record.directory import RunDir

RUNS = click.argument("folders", nargs=-1, type=PATH, metavar="[DIR]...")
STOPPED_LOOKING = "Stopped looking; runs are not touched by that."


@click.command(short_help="A table of runs.")
@RUNS
@click.option("--watch", is_flag=True, help="Print it again and again, until Ctrl-C.")
@click.option("--every", default=5.0, show_default=True, metavar="S", help="Seconds, for --watch.")
def status(folders: tuple[Path, ...], watch: bool, every: float) -> None:
    """Print state, step, speed, top-1, time left, attempts and nodes of runs below DIR (runs/)."""
    from launcher.status import collect, table

    signals.say_on_ctrl_c(lambda: STOPPED_LOOKING)
    while True:
        left_out: dict[Path, str] = {}
        runs, troubles = collect(folders or (Path("runs"),), left_out)
        redraws = streams.can_redraw(sys.stdout)
        if watch and redraws:
            click.clear()
        click.echo(table(runs) if runs else "No runs there.")
        _say_left_out(left_out)
        for trouble in troubles:
            click.echo(trouble, err=True)
        if not watch or streams.nobody_reads():
            return
        time.sleep(every)
        if not redraws:
            click.echo()


@click.command("list", short_help="Run directories, one a line.")
@RUNS
@click.option(
    "--state", type=click.Choice(STATES), multiple=True, help="Only runs in this state; repeatable."
)
@click.option("--submitted", is_flag=True, help="Only runs that `submit` or `sweep` queued.")
def list_runs(folders: tuple[Path, ...], state: tuple[str, ...], submitted: bool) -> None:
    """Print run directories below DIR (runs/), one a line, as arguments of other commands:

    rwp-launch list --submitted --state failed | xargs -rd '\\n' rwp-launch resume
    """
    from launcher.status import collect

    left_out: dict[Path, str] = {}
    runs, troubles = collect(folders or (Path("runs"),), left_out)
    for run in runs:
        if (not state or run.state in state) and (run.job or not submitted):
            click.echo(run.directory.path)
    _say_left_out(left_out)
    for trouble in troubles:
        click.echo(trouble, err=True)


@click.command(short_help="What a run printed.")
@click.argument("run", type=PATH)
@click.option("-f", "--follow", is_flag=True, help="Go on until the run ends.")
@click.option("--rank", type=int, help="Of this rank alone.")
def logs(run: Path, follow: bool, rank: int | None) -> None:
    """Print the log of a run's newest attempt, of the whole job or of one rank."""
    from launcher import logs as found
    from launcher.status import collect

    signals.say_on_ctrl_c(lambda: STOPPED_LOOKING)
    run_dir = _run(run)
    if not follow:
        click.echo(found.read(run_dir, rank), nl=False)
        return
    for text in found.follow(run_dir, rank, lambda: collect([run])[0][0].living):
        click.echo(text, nl=False)


@click.command(short_help="Save, stop and stay stopped.")
@click.argument("folders", nargs=-1, required=True, type=PATH, metavar="DIR...")
def cancel(folders: tuple[Path, ...]) -> None:
    """Stop the runs below DIR for good, each with a checkpoint; `resume` goes on with them."""
    from launcher.status import collect, stop

    left_out: dict[Path, str] = {}
    runs, troubles = collect(folders, left_out)
    _say_left_out(left_out)
    if troubles:
        raise troubles[0]
    living = [run for run in runs if run.living and run.state != "stopping"]
    stop(living)
    for run in living:
        click.echo(f"{run.directory.path}: was {run.state}; asked to save and stop.")
    if not living:
        click.echo("None of these runs is queued or running.", err=True)


@click.command(short_help="Submit runs again as they were.")
@click.argument("runs", nargs=-1, required=True, type=PATH, metavar="RUN...")
def resume(runs: tuple[Path, ...]) -> None:
    """Submit runs again, with the code, settings and resources of their submission."""
    from launcher.submit import resubmit

    for run in runs:
        job = resubmit(_run(run))
        click.echo(f"{job.backend} {job.full_id}: {job.run_dir}")


COMMANDS = (status, list_runs, logs, cancel, resume)


def _run(path: Path) -> RunDir:
    run_dir = RunDir(path)
    if not run_dir.exists():
        meant = RunDir("runs" / path)  # as a table names it
        cure = f"name {meant.path}" if meant.exists() else "`rwp-launch list` names some"
        raise ConfigError(f"{path} is no run directory", cure=cure)
    return run_dir


def _say_left_out(left_out: dict[Path, str]) -> None:
    for path, why in left_out.items():
        click.echo(f"Left out: {path} ({why})", err=True)
