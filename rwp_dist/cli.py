"""The command line. Settings are checked before torch is imported, so errors come at once."""

import json
import sys
import traceback
from pathlib import Path
from typing import Any

from rwp_dist import __version__, ending, launched
from rwp_dist.errors import RwpError

with ending.at_once():
    import click

    from rwp_dist.config import Settings, known_keys, list_variants, load_settings, split_batch
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
    _check_world(settings)
    from rwp_dist.sweep import run_all

    run_all([settings], session="")


@main.command(short_help="Train several variants and seeds, one after another.")
@click.argument("config", type=RUN)
@click.argument("overrides", nargs=-1, metavar="[key=value]...")
@click.option("--variants", help="Comma-separated variants of CONFIG; all, unless given.")
@click.option("--seeds", default=3, show_default=True, help="Seeds 0, 1, ... of each variant.")
@click.option("--dir", "folder", type=RUN, required=True, help="Where the runs go.")
def sweep(
    config: Path, overrides: tuple[str, ...], variants: str | None, seeds: int, folder: Path
) -> None:
    """Train variants x seeds, one after another, in one group of ranks.

    Variants take turns seed by seed, so that their step times may be compared.
    """
    names = variants.split(",") if variants else list_variants(config) or (None,)
    runs = []
    for seed in range(seeds):
        for name in names:
            chosen = [] if name is None else [f"variant={name}"]
            settings = load_settings(config, [*overrides, *chosen, f"run.seed={seed}"])
            label = settings.run.label
            run = settings.run.model_copy(update={"dir": str(folder / f"{label}-s{seed}")})
            runs.append(settings.model_copy(update={"run": run}))
            _check_world(settings)
    from rwp_dist.sweep import run_all

    run_all(runs, session=str(folder))


@main.command(short_help="Top-1, top-5 and loss of a run's checkpoint.")
@click.argument("run", type=RUN)
@click.argument("overrides", nargs=-1, metavar="[key=value]...")
@click.option("--checkpoint", type=RUN, help="A checkpoint file; the run's newest, unless given.")
def evaluate(run: Path, overrides: tuple[str, ...], checkpoint: Path | None) -> None:
    """Top-1, top-5 and loss of a run's checkpoint, every sample counted once."""
    from rwp_dist.rundir import RunDir

    run_dir = RunDir(run)
    if not run_dir.config.is_file():
        raise RwpError(f"{run}: is no run directory (no config.yaml there); name one under runs/.")
    if checkpoint is None and not any(run_dir.checkpoints.glob("step-*.pt")):
        raise RwpError(
            f"{run_dir.checkpoints}: there is no checkpoint yet; let the run reach its first."
        )
    ending.ctrl_c_says(lambda: "Stopped before the evaluation was done; nothing was changed.")
    settings = load_settings(run_dir.config, overrides)
    from rwp_dist.distributed import choose_device

    choose_device(settings.run.device)  # before DeepSpeed is imported, which warns otherwise
    from rwp_dist.evaluate_run import evaluate_run

    click.echo(evaluate_run(settings, run_dir, checkpoint))


@main.command(short_help="Table and picture of several runs.")
@click.argument("runs", nargs=-1, required=True, type=RUN)
@click.option("--out", type=RUN, default=Path("runs"), show_default=True, help="Folder for files.")
def compare(runs: tuple[Path, ...], out: Path) -> None:
    """Table and picture of several runs: mean and deviation over seeds, cost, step time."""
    ending.ctrl_c_says(lambda: f"Stopped; compare again: {out} may lack files of this comparison.")
    from rwp_dist.compare import compare as make

    click.echo(make(runs, out))
    click.echo(f"Written: {out / 'compare.md'}, {out / 'compare.json'}, {out / 'compare.png'}")


@main.command(short_help="How many images/s this machine can feed to a run.")
@click.argument("config", type=RUN)
@click.argument("overrides", nargs=-1, metavar="[key=value]...")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(config: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Read one shard of the run's data: is all of it there, and how fast can this machine go?

    Takes about five seconds.
    """
    settings = load_settings(config, overrides)
    from rwp_dist.data.speed import images_per_second

    found = images_per_second(settings)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    size = found["bytes_per_image"] / 1e3
    click.echo(
        f"{found['shard']}: {found['images']:,} images of {size:,.1f} kB, {found['bad']} of them "
        "unreadable\n"
        f"decoder {found['decoder']}: {found['images_per_s_core']:,.0f} images/s on one core, "
        f"{found['images_per_s']:,.0f} images/s on this machine's {found['cores']}"
    )
    if found["bad"]:
        click.echo("`rwp-dist shards verify` lists the unreadable ones.")


@main.command("settings")
def show_settings() -> None:
    """List every setting with its meaning."""
    for key, meaning in known_keys():
        click.echo(f"{key}\n    {meaning}")


main.add_command(shards)


def _check_world(settings: Settings) -> None:
    """Refuse a batch that the ranks cannot share before anything else is loaded."""
    split_batch(settings, launched.world_size())
