"""Options that say what a job asks for, shared by the commands that submit."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from launcher.job import Resources
from rwp_dist.base.errors import ConfigError

OPTIONS = (
    click.option("--nodes", default=1, show_default=True, help="Nodes of each run."),
    click.option("--gpus", default=8, show_default=True, help="GPUs of each node; 0: CPUs alone."),
    click.option("--ranks", type=int, help="Ranks of each node.  [default: --gpus, or 1]"),
    click.option("--cpus", type=int, help="CPU cores of each node.  [default: all]"),
    click.option("--time", metavar="LIMIT", help="Time limit: 24:00:00. The run goes on after it."),
    click.option("--partition", help="Slurm's partition."),
    click.option("--account", help="Slurm's account."),
    click.option("--container", metavar="IMAGE", help="Image to run in."),
    click.option("--container-runtime", type=click.Choice(["pyxis", "apptainer"]), help="Slurm's."),
    click.option("--venv", help="Python environment of the job.  [default: this one]"),
    click.option("--site", metavar="FILE", help="Cluster's profile.  [default: slurm/site.sh]"),
    click.option("--secrets", metavar="FILE", help="File of keys (WANDB_API_KEY=...), mode 0600."),
    click.option("--max-attempts", type=int, help="How often the job may start."),
    click.option(
        "--option",
        "options",
        multiple=True,
        metavar="NAME[=VALUE]",
        help="Any other option of sbatch or docker run, without its dashes; repeatable.",
    ),
)


def asks_for_resources(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command these options, as one argument ``wants`` of type ``Resources``."""

    @wraps(command)
    def with_resources(
        *, gpus: int, ranks: int | None, venv: str | None, nodes: int, **others: Any
    ) -> Any:
        names = Resources.__dataclass_fields__
        own = {name: others.pop(name) for name in list(others) if name in names}
        ranks = (gpus or 1) if ranks is None else ranks
        for key, number in (("--nodes", nodes), ("--ranks", ranks)):
            if number < 1:
                raise ConfigError(f"{number} cannot train", key=key, cure="give 1 or more")
        # The job runs in another folder.
        if venv is not None and Path(venv).is_dir():
            venv = str(Path(venv).absolute())
        if own["container"] and Path(own["container"]).is_file():  # not the name of an image
            own["container"] = str(Path(own["container"]).absolute())
        for name in ("secrets", "site"):
            own[name] = str(Path(own[name]).absolute()) if own[name] else None
        wants = Resources(nodes=nodes, gpus=gpus, ranks_per_node=ranks, venv=venv, **own)
        return command(wants=wants, **others)

    for option in reversed(OPTIONS):
        with_resources = option(with_resources)
    return with_resources
