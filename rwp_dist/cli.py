"""The command line. Settings are checked before torch is imported, so errors come at once."""

import sys
import traceback
from pathlib import Path
from typing import Any

import click

from rwp_dist import __version__, launched
from rwp_dist.config import Settings, known_keys, list_variants, load_settings, split_batch
from rwp_dist.errors import RwpError
from rwp_dist.shards.cli import shards

RUN = click.Path(path_type=Path)


class Commands(click.Group):
    """Prints an error as one sentence with the right exit code; ``--debug`` adds the traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except RwpError as error:
            if ctx.params.get("debug"):
                traceback.print_exc()
            self._say(str(error))
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            self._say("Stopped before the first step; nothing was lost.")
            ctx.exit(130)

    @staticmethod
    def _say(text: str) -> None:
        """Once for a run, not once for each of its ranks: all of them know the same error."""
        if launched.rank() == 0:
            sys.stdout.flush()
            click.echo(text, err=True)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__)
def main(debug: bool) -> None:
    """Train vision models with random weight perturbation (RWP), and see what it does."""


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


@main.command()
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


@main.command()
@click.argument("run", type=RUN)
@click.argument("overrides", nargs=-1, metavar="[key=value]...")
@click.option("--checkpoint", type=RUN, help="A checkpoint file; the run's newest, unless given.")
def evaluate(run: Path, overrides: tuple[str, ...], checkpoint: Path | None) -> None:
    """Top-1, top-5 and loss of a run's checkpoint, every sample counted once."""
    from rwp_dist.rundir import RunDir

    run_dir = RunDir(run)
    if not run_dir.config.is_file():
        raise RwpError(f"{run}: is no run directory (no config.yaml there); name one under runs/.")
    settings = load_settings(run_dir.config, overrides)
    from rwp_dist.evaluate_run import evaluate_run

    click.echo(evaluate_run(settings, run_dir, checkpoint))


@main.command()
@click.argument("runs", nargs=-1, required=True, type=RUN)
@click.option("--out", type=RUN, default=Path("runs"), show_default=True, help="Folder for files.")
def compare(runs: tuple[Path, ...], out: Path) -> None:
    """Table and picture of several runs: mean and deviation over seeds, cost, step time."""
    from rwp_dist.compare import compare as make

    click.echo(make(runs, out))


@main.command("settings")
def show_settings() -> None:
    """List every setting with its meaning."""
    for key, meaning in known_keys():
        click.echo(f"{key}\n    {meaning}")


main.add_command(shards)


def _check_world(settings: Settings) -> None:
    """Refuse a batch that the ranks cannot share before anything else is loaded."""
    split_batch(settings, launched.world_size())
