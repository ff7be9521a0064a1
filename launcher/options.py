"""Options that say what a job asks for, shared by the commands that submit."""

import re
import stat
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from launcher.job import Resources
from launcher.keys import read_keys
from launcher.limit import limit_seconds
from rwp_dist.base.errors import ConfigError
from rwp_dist.process.paths import PLACE

OPTIONS = (
    click.option("--nodes", default=1, show_default=True, help="Nodes of each run."),
    click.option("--gpus", default=8, show_default=True, help="GPUs of each node; 0: CPUs alone."),
    click.option("--ranks", type=int, help="Ranks of each node.  [default: --gpus, or 1]"),
    click.option("--cpus", type=int, help="CPU cores of each node.  [default: all]"),
    click.option("--time", metavar="LIMIT", help="Time limit: 24:00:00. The run goes on after it."),
    click.option("--partition", help="Slurm's partition."),
    click.option("--account", help="Slurm's account."),
    click.option("--container", type=PLACE, metavar="IMAGE", help="Image to run in."),
    click.option("--container-runtime", type=click.Choice(["pyxis", "apptainer"]), help="Slurm's."),
    click.option(
        "--venv",
        type=PLACE,
        metavar="FOLDER",
        help="Python environment of the job.  [default: this one]",
    ),
    click.option(
        "--site", type=PLACE, metavar="FILE", help="Cluster's profile.  [default: slurm/site.sh]"
    ),
    click.option(
        "--secrets", type=PLACE, metavar="FILE", help="File of keys (WANDB_API_KEY=...), mode 0600."
    ),
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
    """Give a command these options as one argument ``wants`` of type ``Resources``.

    What cannot be meant is left out of it; why is in ``wrong``, a list of errors.
    """

    @wraps(command)
    def with_resources(*, ranks: int | None, **others: Any) -> Any:
        names = Resources.__dataclass_fields__
        given = {name: others.pop(name) for name in list(others) if name in names}
        own, wrong = _checked(given | {"ranks": ranks})
        ranks = own.pop("ranks")
        for name in ("venv", "container", "secrets", "site"):  # the job runs in another folder
            # Others are on its nodes alone, or names of images.
            if own[name] is not None and Path(own[name]).exists():
                own[name] = str(Path(own[name]).absolute())
        own["ranks_per_node"] = (own["gpus"] or 1) if ranks is None else ranks
        return command(wants=Resources(**own), wrong=wrong, **others)

    for option in reversed(OPTIONS):
        with_resources = option(with_resources)
    return with_resources


def _checked(given: dict[str, Any]) -> tuple[dict[str, Any], list[ConfigError]]:
    """Options without what a queue or a job would only find to be wrong later, and that."""
    wrong = list[ConfigError]()

    def right(name: str, value: Any) -> bool:
        try:
            _check(name, value)
        except ConfigError as error:
            wrong.append(error)
            return False
        return True

    unset = {"nodes": 1, "gpus": 8}
    own = {
        name: tuple(one for one in value if right(name, one))
        if name == "options"
        else value
        if value is None or right(name, value)
        else unset.get(name)
        for name, value in given.items()
    }
    return own, wrong


def _check(name: str, value: Any) -> None:
    """Refuse a value of an option.

    Raises:
        ConfigError: it cannot be what was meant.
    """
    key = f"--{name.replace('_', '-')}"
    if name == "gpus" and value < 0:
        raise ConfigError(f"{value} is no number of GPUs", key=key, cure="give 0 or more")
    if name in ("nodes", "ranks", "cpus", "max_attempts", "parallel") and value < 1:
        raise ConfigError(f"{value} cannot train", key=key, cure="give 1 or more")
    if value == "":
        raise ConfigError("it is empty", key=key, cure="leave it out")
    if name == "time":
        limit_seconds(value)
    if name in ("secrets", "site") and not Path(value).is_file():
        cure = f"name one, or leave {key} out"
        raise ConfigError(f"{value} is no file", key=key, cure=cure)
    if name == "secrets" and stat.S_IMODE(Path(value).stat().st_mode) & 0o077:
        raise ConfigError(f"others may read {value}", key=key, cure="chmod 600 it")
    if name == "secrets":
        read_keys(Path(value))
    if name == "options":
        _check_option(value)


def _check_option(option: str) -> None:
    name, _, value = option.partition("=")
    if not re.fullmatch(r"[A-Za-z0-9][\w-]*", name):
        raise ConfigError(
            f"{option!r:.80} is no option", key="--option", cure="write NAME or NAME=VALUE"
        )
    if name == "time":
        limit_seconds(value, key="--option time")
    if name in ("mem", "mem-per-cpu", "mem-per-gpu") and not re.fullmatch(
        r"\d+[KMGTkmgt]?[Bb]?", value
    ):
        raise ConfigError(
            f"{value!r:.80} is no size of memory",
            key=f"--option {name}",
            cure="write a number with K, M, G or T, as in 64G",
        )
