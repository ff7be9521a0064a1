"""Commands about runs that have been started, wherever that was."""

import time
from pathlib import Path

import click

from rwp_dist.base.errors import ConfigError, RwpError
from rwp_dist.process import signals as ending
from rwp_dist.record.directory import RunDir

RUN = click.Path(path_type=Path)
RUNS = click.argument("folders", nargs=-1, type=RUN, metavar="[DIR]...")
LOOKED = "Stopped looking; runs are not touched by that."


@click.command(short_help="A table of runs.")
@RUNS
@click.option("--watch", is_flag=True, help="Again and again, until Ctrl-C.")
@click.option("--every", default=5.0, show_default=True, metavar="S", help="Seconds, for --watch.")
def status(folders: tuple[Path, ...], watch: bool, every: float) -> None:
    """State, step, speed, top-1, time left, attempts and nodes of the runs below DIR (runs/)."""
    from launcher.status import collect, table

    ending.ctrl_c_says(lambda: LOOKED)
    while True:
        runs, troubles = collect(folders or (Path("runs"),))
        if watch:
            click.clear()
        click.echo(table(runs) if runs else "No runs there.")
        for trouble in troubles:
            click.echo(trouble, err=True)
        if not watch:
            return
        time.sleep(every)


@click.command("list", short_help="Run directories, one a line.")
@RUNS
@click.option("--state", multiple=True, help="Only runs in this state; repeatable.")
def list_runs(folders: tuple[Path, ...], state: tuple[str, ...]) -> None:
    """Run directories below DIR (runs/), one a line, for other commands to take:

    rwp-launch resume $(rwp-launch list --state failed --state lost)
    """
    from launcher.status import collect

    runs, troubles = collect(folders or (Path("runs"),))
    for run in runs:
        if not state or run.state in state:
            click.echo(run.directory.path)
    for trouble in troubles:
        click.echo(trouble, err=True)


@click.command(short_help="What a run printed.")
@click.argument("run", type=RUN)
@click.option("-f", "--follow", is_flag=True, help="Go on to the end of the run.")
@click.option("--rank", type=int, help="Of this rank alone.")
def logs(run: Path, follow: bool, rank: int | None) -> None:
    """What the newest attempt of a run printed: the whole job, or one rank."""
    from launcher import logs as found
    from launcher.status import collect

    ending.ctrl_c_says(lambda: LOOKED)
    run_dir = _run(run)
    if not follow:
        click.echo(found.read(run_dir, rank), nl=False)
        return
    for text in found.follow(run_dir, rank, lambda: collect([run])[0][0].living):
        click.echo(text, nl=False)


@click.command(short_help="Save, stop and stay stopped.")
@click.argument("folders", nargs=-1, required=True, type=RUN, metavar="DIR...")
def cancel(folders: tuple[Path, ...]) -> None:
    """End the runs below DIR for good, each with a checkpoint; `resume` goes on with them."""
    from launcher.status import collect, stop

    runs, troubles = collect(folders)
    if troubles:
        raise RwpError("\n".join(troubles))
    living = [run for run in runs if run.living and run.state != "stopping"]
    stop(living)
    for run in living:
        click.echo(f"{run.directory.path}: was {run.state}; asked to save and stop.")
    if not living:
        click.echo("None of these runs is queued or running.", err=True)


@click.command(short_help="Submit runs again as they were.")
@click.argument("runs", nargs=-1, required=True, type=RUN, metavar="RUN...")
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
        cure = f"did you mean {meant.path}?" if meant.exists() else "`rwp-launch list` names some."
        raise ConfigError(f"{path}: is no run directory; {cure}")
    return run_dir
