"""``rwp-launch``: start runs on this machine or on a cluster. ``manage`` has the other commands.

Settings are checked first, so errors come at once. Nothing here imports torch.
"""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import click

from launcher.backends import refuse
from launcher.job import Job, Resources
from launcher.manage import COMMANDS
from launcher.options import asks_for_resources
from rwp_dist import __version__
from rwp_dist.base.errors import ConfigError
from rwp_dist.config import Settings, expand, load_settings, split_batch
from rwp_dist.config.tree import Tracking
from rwp_dist.process.commands import Commands

CONFIG = click.Path(path_type=Path)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__)
def main(debug: bool) -> None:
    """Start runs, on this machine or a cluster, and look after them."""


@main.command(short_help="Train one run on this machine.")
@click.argument("config", type=CONFIG)
@click.argument("overrides", nargs=-1, metavar="[key=value]...")
@click.option("--nproc", default=1, show_default=True, help="Ranks on this machine.")
@click.option(
    "--attempts",
    default=1,
    show_default=True,
    help="How often to try: after a crash it goes on from the newest checkpoint.",
)
def run(config: Path, overrides: tuple[str, ...], nproc: int, attempts: int) -> None:
    """Train one run on --nproc ranks of this machine, with torchrun.

    Ctrl-C saves a checkpoint and stops; the same command goes on from there.
    """
    _check_nproc(nproc)
    if attempts < 1:
        raise ConfigError(f"{attempts} train nothing", key="--attempts", cure="give 1 or more")
    settings = load_settings(config, overrides)
    split_batch(settings, nproc)
    place = Path(str(settings.run.dir))
    _start_ranks(nproc, ["train", str(config), *overrides], place, settings.tracking, attempts)


@main.command(short_help="Queue one run on a cluster.")
@click.argument("config", type=CONFIG)
@click.argument("overrides", nargs=-1, metavar="[key=value]...")
@click.option(
    "--backend",
    type=click.Choice(["slurm", "docker", "local"]),
    default="slurm",
    show_default=True,
    help="Where to run; local: here, in the background.",
)
@asks_for_resources
@click.option("--dry-run", is_flag=True, help="Print what would be submitted, and do nothing.")
def submit(
    config: Path, overrides: tuple[str, ...], backend: str, wants: Resources, dry_run: bool
) -> None:
    """Queue one run, with its code and settings as they are now.

    Later edits do not change it. Submitted again, it goes on from its newest checkpoint.
    """
    from launcher.submit import plan

    source = (str(config), *overrides)
    job, settings = plan(load_settings(config, overrides), wants, backend, source)
    _submit([job], [settings], dry_run)


@main.command(short_help="Train variants x grid x seeds.")
@click.argument("config", type=CONFIG)
@click.argument("overrides", nargs=-1, metavar="[key=value]...")
@click.option("--variants", help="Comma-separated variants of CONFIG; all, unless given.")
@click.option("--grid", multiple=True, metavar="KEY=V,V", help="Values to combine; repeatable.")
@click.option("--seeds", default=3, show_default=True, help="Seeds 0, 1, ... of each variant.")
@click.option("--dir", "folder", type=CONFIG, required=True, help="Where the runs go.")
@click.option(
    "--backend", type=click.Choice(["local", "slurm"]), default="local", show_default=True
)
@click.option("--nproc", type=int, help="local: ranks on this machine.  [default: 1]")
@click.option("--parallel", type=int, help="slurm: how many runs at the same time.")
@asks_for_resources
@click.option("--dry-run", is_flag=True, help="slurm: print what would be submitted.")
def sweep(
    config: Path,
    overrides: tuple[str, ...],
    variants: str | None,
    grid: tuple[str, ...],
    seeds: int,
    folder: Path,
    backend: str,
    nproc: int | None,
    wants: Resources,
    dry_run: bool,
) -> None:
    """Train variants x grid x seeds: here one after another, on Slurm as one job array.

    Runs with equal settings are trained once, finished ones not again. `rwp-dist compare DIR` makes
    the table.
    """
    another = "leave it out, or choose another --backend"
    if backend == "local":
        refuse(wants, Resources.__dataclass_fields__, "a sweep on this machine takes only --nproc")
        if dry_run:
            raise ConfigError("there is no script to print", key="--dry-run", cure=another)
    elif nproc is not None:
        why = "on a cluster, --ranks says how many each node has"
        raise ConfigError(why, key="--nproc", cure=another)
    runs = expand(config, overrides, variants=variants, grid=grid, seeds=seeds, folder=folder)
    if backend == "local":
        nproc = 1 if nproc is None else nproc
        _check_nproc(nproc)
        for settings in runs:
            split_batch(settings, nproc)
        chosen = ["--variants", variants] if variants else []
        axes = [f"--grid={axis}" for axis in grid]
        command = ["sweep", str(config), *overrides, *chosen, *axes, f"--seeds={seeds}"]
        _start_ranks(nproc, [*command, f"--dir={folder}"], folder, runs[0].tracking)
    from launcher.submit import plan, refusals

    source = (str(config), *overrides)
    place = folder.absolute()
    planned = [plan(settings, wants, backend, source, place) for settings in runs]
    taken = refusals([job.run_dir for job, _ in planned])
    for error in taken.values():
        click.echo(f"{error.problem}: left out.", err=True)
    left = [(job, settings) for job, settings in planned if job.run_dir not in taken]
    if not left:
        raise ConfigError(
            f"every run of the sweep in {folder} is finished or has a job already",
            key="--dir",
            cure="name another folder",
        )
    jobs = [replace(job, task=task) for task, (job, _) in enumerate(left)]
    _submit(jobs, [settings for _, settings in left], dry_run)


@main.group()
def export() -> None:
    """Describe a run for another launcher."""


@export.command(short_help="A SkyPilot task, as YAML.")
@click.argument("config", type=CONFIG)
@click.argument("overrides", nargs=-1, metavar="[key=value]...")
@click.option("--nodes", default=1, show_default=True)
@click.option("--accelerators", default="H100:8", show_default=True, help="Of each node.")
@click.option("--spot", is_flag=True, help="Cheaper nodes that may be taken away.")
def skypilot(
    config: Path, overrides: tuple[str, ...], nodes: int, accelerators: str, spot: bool
) -> None:
    """Print a SkyPilot task, for `sky jobs launch`."""
    from launcher.skypilot import task

    click.echo(task(config, overrides, nodes, accelerators, spot), nl=False)


for command in COMMANDS:
    main.add_command(command)


def _submit(jobs: Sequence[Job], settings: Sequence[Settings], dry_run: bool) -> None:
    from launcher import submit as steps
    from launcher.backends import backend

    jobs, code = steps.with_code(jobs, settings)
    if dry_run:
        place = backend(jobs[0].backend)
        script = place.render(jobs)
        click.echo(shlex.join(place.command(jobs)), err=True)
        click.echo(script, nl=False)
        return
    submitted = steps.submit(jobs, settings, code)
    for job in submitted:
        click.echo(f"{job.backend} {job.full_id}: {job.run_dir}")
    for path in dict.fromkeys(path for job in jobs for path in job.data):
        if not Path(path).exists():  # it may be a disk of the nodes alone
            click.echo(
                f"Warning: {path} is not there on this machine; a job whose nodes lack it as well "
                "fails. data.train and data.val say where shards are.",
                err=True,
            )
    where = submitted[0].folder
    click.echo(f"`rwp-launch status {where}` shows how far it is.", err=True)


def _check_nproc(nproc: int) -> None:
    if nproc < 1:
        raise ConfigError(f"{nproc} ranks cannot train", key="--nproc", cure="give 1 or more")


def _start_ranks(
    nproc: int, command: list[str], place: Path, tracking: Tracking, attempts: int = 1
) -> NoReturn:
    """Run the ranks, again if they crash; exits with their code."""
    if click.get_current_context().find_root().params.get("debug"):
        command = ["--debug", *command]
    sys.stdout.flush()
    from launcher import alerts
    from launcher.ranks import FINAL, STOPPED_CODES, run_ranks
    from rwp_dist.record.directory import RunDir

    run = RunDir(place)
    for attempt in range(1, attempts + 1):
        code = run_ranks(nproc, command, place)
        if code not in (0, *STOPPED_CODES):
            alerts.died_unsaved(run, f"Attempt {attempt}", tracking.alerts)
        if code in FINAL or attempt == attempts:
            break
        click.echo(f"Attempt {attempt} of {attempts} has failed; the next one begins.", err=True)
    if code not in (0, *STOPPED_CODES):
        outcome = f"Given up after {attempt} attempt{'s' if attempt > 1 else ''}"
        alerts.gave_up(run, f"{outcome}, with exit code {code}.", kinds=tracking.alerts)
    sys.exit(code)
