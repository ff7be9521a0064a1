"""The command line. Settings are checked before torch is imported, so errors come at once."""

import sys
import traceback
from pathlib import Path
from typing import Any

from rwp_dist import __version__
from rwp_dist.base.errors import RwpError
from rwp_dist.process import signals as ending
from rwp_dist.process import torchrun as launched

with ending.at_once():
    import click

    from rwp_dist.config import (
        Settings,
        dump_settings,
        expand,
        get_setting,
        known_keys,
        load_settings,
        split_batch,
    )
    from rwp_dist.engine.deepspeed import deepspeed_config
    from rwp_dist.shards.cli import shards

RUN = click.Path(path_type=Path)


class Commands(click.Group):
    """Prints an error as one sentence with the right exit code; ``--debug`` adds the traceback."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a command line; Ctrl-C ends it with one line, whatever it is doing."""
        alone = not args and extra.get("args") is None  # this process is that command line
        with ending.at_once(to_the_end=alone):
            ending.obey_signals()
            return super().main(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except RwpError as error:
            if ctx.params.get("debug"):
                _say(traceback.format_exc())
            said = launched.rank() == 0 or not error.shared
            if said:
                _say(str(error), with_rank=not error.shared)
            ending.tell_agent(str(error), error.exit_code, said=said, shared=error.shared)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            _say("Stopped; finished shards are kept: start the same command again.")
            ctx.exit(ending.STOPPED)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except Exception as error:
            if ending.others_stopped():
                ctx.exit(ending.STOPPED)
            ending.tell_agent(f"{type(error).__name__}: {error}", 1, lost=_lost_others(error))
            if launched.world_size() == 1:
                raise
            _say(traceback.format_exc())
            ctx.exit(1)


def _say(text: str, with_rank: bool = True) -> None:
    """In one piece, so that ranks that speak at the same time do not mix their lines."""
    if with_rank and launched.world_size() > 1:
        text = f"rank {launched.rank()}: {text}"
    sys.stdout.flush()
    click.echo(text.rstrip("\n"), err=True)


def _lost_others(error: Exception) -> bool:
    """Whether an error only says that another rank is gone."""
    signs = ("closed by peer", "reset by peer", "Broken pipe", "remote process exited")
    return any(sign in str(error) for sign in signs)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__)
@click.pass_context
def main(ctx: click.Context, debug: bool) -> None:
    """Train vision models with random weight perturbation (RWP), and see what it does."""
    if ctx.invoked_subcommand == "shards":
        ending.by_exception()


@main.command()
@click.argument("config", type=RUN)
@click.argument("overrides", nargs=-1, metavar="[key=value]...")
def train(config: Path, overrides: tuple[str, ...]) -> None:
    """Train one run: alone as one process, under torchrun as one rank.

    Started again, it goes on from its newest checkpoint. Settings are overridden as
    section.key=value; variant=NAME chooses one of the file's variants.
    """
    settings = load_settings(config, overrides)
    _check_for(settings, launched.world_size())
    from rwp_dist.sweep import run_all

    run_all([settings], session="")


@main.command(short_help="Train several variants and seeds, one after another.")
@click.argument("config", type=RUN)
@click.argument("overrides", nargs=-1, metavar="[key=value]...")
@click.option("--variants", help="Comma-separated variants of CONFIG; all, unless given.")
@click.option("--grid", multiple=True, metavar="KEY=V,V", help="Values to combine; repeatable.")
@click.option("--seeds", default=3, show_default=True, help="Seeds 0, 1, ... of each variant.")
@click.option("--dir", "folder", type=RUN, required=True, help="Where the runs go.")
def sweep(
    config: Path,
    overrides: tuple[str, ...],
    variants: str | None,
    grid: tuple[str, ...],
    seeds: int,
    folder: Path,
) -> None:
    """Train variants x grid x seeds, one after another, in one group of ranks.

    Variants take turns seed by seed, so that their step times may be compared.
    """
    runs = expand(config, overrides, variants=variants, grid=grid, seeds=seeds, folder=folder)
    for settings in runs:
        _check_for(settings, launched.world_size())
    from rwp_dist.sweep import run_all

    run_all(runs, session=str(folder))


@main.command(short_help="Top-1, top-5 and loss of a run's checkpoint.")
@click.argument("run", type=RUN)
@click.argument("overrides", nargs=-1, metavar="[key=value]...")
@click.option("--checkpoint", type=RUN, help="A checkpoint file; the run's newest, unless given.")
def evaluate(run: Path, overrides: tuple[str, ...], checkpoint: Path | None) -> None:
    """Top-1, top-5 and loss of a run's checkpoint, every sample counted once."""
    from rwp_dist.record.directory import RunDir

    run_dir = RunDir(run)
    if not run_dir.config.is_file():
        raise RwpError(f"{run}: is no run directory (no config.yaml there); name one under runs/.")
    if checkpoint is None and not any(run_dir.checkpoints.glob("step-*.pt")):
        raise RwpError(
            f"{run_dir.checkpoints}: there is no checkpoint yet; let the run reach its first."
        )
    ending.ctrl_c_says(lambda: "Stopped before the evaluation was done; nothing was changed.")
    settings = load_settings(run_dir.config, overrides)
    from rwp_dist.process.group import choose_device

    choose_device(settings.run.device)  # before DeepSpeed is imported, which warns otherwise
    from rwp_dist.run.evaluate_run import evaluate_run

    click.echo(evaluate_run(settings, run_dir, checkpoint))


@main.command(short_help="Table and picture of several runs.")
@click.argument("runs", nargs=-1, required=True, type=RUN)
@click.option("--out", type=RUN, default=Path("runs"), show_default=True, help="Folder for files.")
@click.option("--by", metavar="KEY[,KEY]", help="Settings that make rows of their own.")
def compare(runs: tuple[Path, ...], out: Path, by: str | None) -> None:
    """Table and picture of several runs: mean and deviation over seeds, cost, step time.

    Runs with one label are one row if they agree in all settings that affect the result; with
    --by, if they agree in those settings.
    """
    ending.ctrl_c_says(lambda: f"Stopped; compare again: {out} may lack files of this comparison.")
    from rwp_dist.compare import compare as make

    click.echo(make(runs, out, by.split(",") if by else ()))
    click.echo(f"Written: {out / 'compare.md'}, {out / 'compare.json'}, {out / 'compare.png'}")


@main.command(short_help="What on this machine would stop a run, and the cure.")
@click.argument("config", type=RUN, required=False)
@click.argument("overrides", nargs=-1, metavar="[key=value]...")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as one JSON document.")
@click.option(
    "--node", "quick", is_flag=True, help="Only this machine's own health, in some seconds."
)
def doctor(config: Path | None, overrides: tuple[str, ...], as_json: bool, quick: bool) -> None:
    """What on this machine would stop a run, and the cure; exit code 1 if there is a problem.

    torch and DeepSpeed, GPUs, limits and disks; with CONFIG also memory, noise, the data, and how
    many images/s this machine can feed. Takes some ten seconds, with --node a few. Started by
    torchrun, all ranks examine their machines and the network between them.
    """
    from rwp_dist.doctor.command import run

    settings = None
    if config is not None:
        if "=" in config.name and not config.exists():
            config, overrides = None, (str(config), *overrides)
        settings = load_settings(config, overrides)
    ending.ctrl_c_says(lambda: "Stopped; nothing was changed.")
    run(settings, quick=quick, as_json=as_json)


@main.command("settings", short_help="Every setting with its meaning, or the values of a run.")
@click.argument("config", type=RUN, required=False)
@click.argument("overrides", nargs=-1, metavar="[key=value]...")
@click.option("--ranks", default=1, show_default=True, help="Check that so many can share a batch.")
@click.option("--get", "key", metavar="KEY", help="Print one value alone, such as run.dir.")
def show_settings(
    config: Path | None, overrides: tuple[str, ...], ranks: int, key: str | None
) -> None:
    """List every setting with its meaning; with CONFIG, check a run's and print them as YAML."""
    if config is None:
        for setting in known_keys().values():
            click.echo(f"{setting.name}\n    {setting.meaning}")
        return
    settings = load_settings(config, overrides)
    _check_for(settings, ranks)
    click.echo(get_setting(settings, key) if key else dump_settings(settings).rstrip())


main.add_command(shards)


def _check_for(settings: Settings, ranks: int) -> None:
    """Refuse settings that do not suit the ranks or DeepSpeed, before torch is loaded."""
    deepspeed_config(settings, split_batch(settings, ranks))
