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
from rwp_dist.base.errors import ConfigError, RwpError, SettingsError
from rwp_dist.config import Settings, check_grid, expand, left_out, with_changes
from rwp_dist.config.tree import Tracking
from rwp_dist.process import launchers, output
from rwp_dist.process.commands import CHANGE, Commands
from rwp_dist.process.paths import PATH
from rwp_dist.record.directory import RunDir
from rwp_dist.record.resume import goes_on_changed
from rwp_dist.record.sweep import describe


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__)
def main(debug: bool) -> None:
    """Start runs, on this machine or a cluster, and look after them."""


@main.command(short_help="Train one run on this machine.")
@click.argument("config", type=PATH)
@click.argument("overrides", nargs=-1, metavar="[key=value]...")
@click.option("--nproc", default=1, show_default=True, help="Ranks on this machine.")
@click.option(
    "--attempts",
    default=1,
    show_default=True,
    help="How often to try: after a crash it goes on from the newest checkpoint.",
)
@CHANGE
def run(
    config: Path, overrides: tuple[str, ...], nproc: int, attempts: int, change: tuple[str, ...]
) -> None:
    """Train one run on --nproc ranks of this machine, with torchrun.

    Ctrl-C saves a checkpoint and stops; the same command goes on from there.
    """
    _check_start(nproc)
    if attempts < 1:
        raise ConfigError(f"{attempts} train nothing", key="--attempts", cure="give 1 or more")
    from rwp_dist.run.check import RunCheck

    overrides = with_changes(overrides, change)
    settings = RunCheck(nproc).load(config, overrides)
    place = Path(str(settings.run.dir))
    command = ["train", str(config), *overrides]
    changed = goes_on_changed(RunDir(place), settings)
    _start_ranks(nproc, command, place, settings.tracking, attempts, changed=changed)


@main.command(short_help="Queue one run on a cluster.")
@click.argument("config", type=PATH)
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
@CHANGE
def submit(
    config: Path,
    overrides: tuple[str, ...],
    change: tuple[str, ...],
    backend: str,
    wants: Resources,
    wrong: list[ConfigError],
    dry_run: bool,
) -> None:
    """Queue one run, with its code and settings as they are now.

    Later edits do not change it. Submitted again, it goes on from its newest checkpoint.
    """
    from launcher.submit import plan
    from rwp_dist.run.check import RunCheck

    overrides = with_changes(overrides, change)
    check = RunCheck(wants.world_size, elsewhere=True)
    given, errors = check.read(config, overrides)
    errors = _together(wrong, errors, str(config))
    job, settings = plan(given, wants, backend, (str(config), *overrides))
    _submit([job], [settings], dry_run, errors, [*check.warnings, *_left_out(wrong)])


@main.command(short_help="Train variants x grid x seeds.")
@click.argument("config", type=PATH)
@click.argument("overrides", nargs=-1, metavar="[key=value]...")
@click.option("--variants", help="Comma-separated variants of CONFIG; all, unless given.")
@click.option("--grid", multiple=True, metavar="KEY=V,V", help="Values to combine; repeatable.")
@click.option("--seeds", type=int, help="How many, from run.seed on.  [default: 3]")
@click.option("--dir", "folder", type=PATH, required=True, help="Where the runs go.")
@click.option(
    "--backend", type=click.Choice(["local", "slurm"]), default="local", show_default=True
)
@click.option("--nproc", type=int, help="local: ranks on this machine.  [default: 1]")
@click.option("--parallel", type=int, help="slurm: how many runs at the same time.")
@asks_for_resources
@click.option("--dry-run", is_flag=True, help="Print the runs, and start nothing.")
def sweep(
    config: Path,
    overrides: tuple[str, ...],
    variants: str | None,
    grid: tuple[str, ...],
    seeds: int | None,
    folder: Path,
    backend: str,
    nproc: int | None,
    wants: Resources,
    wrong: list[ConfigError],
    dry_run: bool,
) -> None:
    """Train variants x grid x seeds: here one after another, on Slurm as one job array.

    Runs with equal settings are trained once, finished ones not again. run.seed=100 makes seeds
    100, 101, ...; --grid run.seed=10,20 takes these. A setting of the grid is left out of runs that
    have no use for it, such as method.sigma of sgd. `rwp-dist compare DIR` makes the table.

    --dry-run prints a table of the runs; with slurm on stderr, because the job script, byte for
    byte as it would be submitted, goes to stdout.
    """
    another = "leave it out, or choose another --backend"
    if backend == "local":
        refuse(wants, Resources.__dataclass_fields__, "a sweep on this machine takes only --nproc")
    elif nproc is not None:
        why = "on a cluster, --ranks says how many each node has"
        raise ConfigError(why, key="--nproc", cure=another)
    from rwp_dist.run.check import RunCheck

    check_grid(grid, overrides)
    runs = expand(config, overrides, variants=variants, grid=grid, seeds=seeds, folder=folder)
    told = left_out(runs, grid)
    if backend == "local":
        nproc = 1 if nproc is None else nproc
        _check_start(nproc)
        errors = _together(wrong, RunCheck(nproc).errors(runs, str(config)), str(config))
        if dry_run:
            for line in (*describe(runs), *told):
                click.echo(line)
        for error in errors:
            raise error
        if not dry_run:
            command = ["sweep", str(config), *overrides]
            command += [] if variants is None else ["--variants", variants]
            command += [f"--grid={axis}" for axis in grid]
            command += [] if seeds is None else [f"--seeds={seeds}"]
            _start_ranks(nproc, [*command, f"--dir={folder}"], folder, runs[0].tracking)
        return
    from launcher.submit import plan, refusals

    source = (str(config), *overrides)
    place = folder.absolute()
    planned = [plan(settings, wants, backend, source, place) for settings in runs]
    check = RunCheck(wants.world_size, elsewhere=True)
    errors = check.errors([settings for _, settings in planned], str(config))
    errors = _together(wrong, errors, str(config))
    if dry_run or not errors:
        for line in (*(describe(runs) if dry_run else ()), *told):
            click.echo(line, err=True)
    if errors and not dry_run:
        raise errors[0]
    taken = {} if errors else refusals([job.run_dir for job, _ in planned], writing=not dry_run)
    left = [(job, settings) for job, settings in planned if job.run_dir not in taken]
    if not left and dry_run:
        left = planned  # its script is shown, and why it would not be submitted
    else:
        for refused in taken.values():
            click.echo(f"{refused.problem}: left out.", err=True)
    if not left:
        raise ConfigError(
            f"every run of the sweep in {folder} is finished or has a job already",
            key="--dir",
            cure="name another folder",
        )
    jobs = [replace(job, task=task) for task, (job, _) in enumerate(left)]
    warnings = [*check.warnings, *_left_out(wrong)]
    _submit(jobs, [own for _, own in left], dry_run, errors, warnings)


@main.group()
def export() -> None:
    """Describe a run for another launcher."""


@export.command(short_help="A SkyPilot task, as YAML.")
@click.argument("config", type=PATH)
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


def _submit(
    jobs: Sequence[Job],
    settings: Sequence[Settings],
    dry_run: bool,
    errors: Sequence[RwpError],
    warnings: Sequence[str],
) -> None:
    """Submit, or print what would be submitted and what keeps it from that.

    Args:
        jobs: one run, or the runs of a sweep.
        settings: of each job.
        dry_run: print the script, and make no files.
        errors: what is wrong with options and settings.
        warnings: what may be wrong with them.
    """
    from launcher import submit as steps
    from launcher.backends import backend

    jobs, code = steps.with_code(jobs, settings)
    place = backend(jobs[0].backend)
    script = ""
    try:
        script = place.render(jobs)
    except ConfigError as refused:
        errors = _together([refused], errors, jobs[0].source[0])
        warnings = [*warnings, "no script can be shown with these options."]
    notes = [f"Warning: {text}" for text in [*warnings, *steps.warnings_of(jobs[0])]]
    if dry_run:
        click.echo(shlex.join(place.command(jobs)), err=True)
        click.echo(script, nl=False)
        errors = [*errors, *steps.faults(jobs, settings)]
        for text in [*notes, *errors]:
            click.echo(text, err=True)
        click.get_current_context().exit(ConfigError.exit_code if errors else 0)
    for error in errors:
        raise error
    submitted = steps.submit(jobs, settings, code)
    for job in submitted:
        click.echo(f"{job.backend} {job.full_id}: {job.run_dir}")
    for text in notes:
        click.echo(text, err=True)
    where = shlex.quote(str(submitted[0].folder))
    click.echo(f"`rwp-launch status {where}` shows how far it is.", err=True)


def _together(
    wrong: Sequence[ConfigError], errors: Sequence[RwpError], source: str
) -> list[RwpError]:
    """What is wrong with options and with settings, in one list if it is more than one problem."""
    problems, others = list(wrong), list[RwpError]()
    for error in errors:
        if isinstance(error, SettingsError):
            problems += error.problems
        elif isinstance(error, ConfigError):
            problems.append(error)
        else:
            others.append(error)
    if not wrong or len(problems) == 1:
        return [*wrong, *errors]
    return [SettingsError(source, problems), *others]


def _left_out(wrong: Sequence[ConfigError]) -> list[str]:
    keys = ", ".join(str(error.key) for error in wrong)
    return [f"the script is shown without {keys}."] if wrong else []


def _check_start(nproc: int) -> None:
    """Refuse to start ranks that cannot train, or to start them once for each task of ``srun``."""
    launchers.check_tasks()
    if nproc < 1:
        raise ConfigError(f"{nproc} ranks cannot train", key="--nproc", cure="give 1 or more")


def _start_ranks(
    nproc: int,
    command: list[str],
    place: Path,
    tracking: Tracking,
    attempts: int = 1,
    *,
    changed: bool = False,
) -> NoReturn:
    """Run the ranks, again if they crash; exits with their code.

    ``changed``: a finished run goes on with changes.
    """
    if click.get_current_context().find_root().params.get("debug"):
        command = ["--debug", *command]
    click.echo(f"starting {nproc} rank{'s' if nproc > 1 else ''} ...")  # torchrun takes seconds
    sys.stdout.flush()
    output.copy_output()  # what the launcher says is part of the attempt's log
    from launcher import alerts
    from launcher.ranks import FINAL, STOPPED_CODES, run_ranks

    run = RunDir(place)
    for attempt in range(1, attempts + 1):
        code = run_ranks(nproc, command, place, changed=changed)
        if code not in (0, *STOPPED_CODES):
            alerts.died_unsaved(run, f"Attempt {attempt}", tracking.alerts)
        if code in FINAL or attempt == attempts:
            break
        click.echo(f"Attempt {attempt} of {attempts} has failed; the next one begins.", err=True)
    if code not in (0, *STOPPED_CODES):
        outcome = f"Given up after {attempt} attempt{'s' if attempt > 1 else ''}"
        alerts.gave_up(run, f"{outcome}, with exit code {code}.", kinds=tracking.alerts)
    sys.exit(code)
