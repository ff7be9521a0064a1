"""``rwp-launch``: start runs. Settings are checked here first, so errors come at once."""

import sys
from pathlib import Path
from typing import NoReturn

from rwp_dist import __version__, ending

with ending.at_once():
    import click

    from rwp_dist.cli import Commands
    from rwp_dist.config import list_variants, load_settings, split_batch
    from rwp_dist.errors import ConfigError

CONFIG = click.Path(path_type=Path)
NPROC = click.option("--nproc", default=1, show_default=True, help="Ranks on this machine.")


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__)
def main(debug: bool) -> None:
    """Start runs on this machine."""


@main.command()
@click.argument("config", type=CONFIG)
@click.argument("overrides", nargs=-1, metavar="[key=value]...")
@NPROC
def run(config: Path, overrides: tuple[str, ...], nproc: int) -> None:
    """Train one run on --nproc ranks of this machine, with torchrun's agent.

    Ctrl-C saves a checkpoint and stops; the same command goes on from there.
    """
    check(config, overrides, nproc)
    start_ranks(nproc, ["train", str(config), *overrides])


@main.command()
@click.argument("config", type=CONFIG)
@click.argument("overrides", nargs=-1, metavar="[key=value]...")
@NPROC
@click.option("--variants", help="Comma-separated variants of CONFIG; all, unless given.")
@click.option("--seeds", default=3, show_default=True, help="Seeds 0, 1, ... of each variant.")
@click.option("--dir", "folder", type=CONFIG, required=True, help="Where the runs go.")
def sweep(
    config: Path,
    overrides: tuple[str, ...],
    nproc: int,
    variants: str | None,
    seeds: int,
    folder: Path,
) -> None:
    """Train variants x seeds one after another; `rwp-dist compare DIR` makes the table."""
    names = variants.split(",") if variants else list_variants(config) or (None,)
    for name in names:
        check(config, [*overrides, *([f"variant={name}"] if name else [])], nproc)
    chosen = ["--variants", variants] if variants else []
    start_ranks(
        nproc,
        ["sweep", str(config), *overrides, *chosen, f"--seeds={seeds}", f"--dir={folder}"],
    )


def check(config: Path, overrides: tuple[str, ...] | list[str], nproc: int) -> None:
    """Raise everything that is wrong with the settings before anything is started."""
    if nproc < 1:
        raise ConfigError(f"--nproc: {nproc} ranks cannot train; give 1 or more.")
    split_batch(load_settings(config, overrides), nproc)


def start_ranks(nproc: int, command: list[str]) -> NoReturn:
    """Start and watch the ranks; ends with their exit code."""
    if click.get_current_context().find_root().params.get("debug"):
        command = ["--debug", *command]
    sys.stdout.flush()
    from launcher.agent import run_ranks

    sys.exit(run_ranks(nproc, command))
