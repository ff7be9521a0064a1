"""Options and argument types that the commands of ``rwp-dist shards`` share."""

import errno
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from rwp_dist.base import disk
from rwp_dist.base.errors import ConfigError, DataError
from rwp_dist.base.urls import local_path
from rwp_dist.process import launchers
from rwp_dist.process.paths import PLACE, HomePath


class LocalPath(HomePath):
    """A path of this machine, perhaps as a ``file:`` URL; other URLs are refused.

    Of ``s3://bucket/x`` pathlib would make the folder ``s3:/bucket/x``.
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = local_path(str(value))
        if path is None:
            raise ConfigError(
                f"{value}: this place is remote",
                cure="give a local folder, and copy its shards there when they are finished; for "
                "shards that lie there already, give the FOLDER of `rwp-dist shards index URLS "
                "--out FOLDER`",
            )
        return super().convert(str(path), param, ctx)


MOST_PIXELS = 2**24
"""Of a synthetic image: making one takes some hundred bytes a pixel."""


class Part(click.ParamType):
    """``K/N``, converted to (K, N)."""

    name = "part"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch("([0-9]{1,9})/([0-9]{1,9})", value)
        if match is None or int(match[1]) >= int(match[2]):
            raise ConfigError(
                f"{value!r:.40} is no part",
                key="--part",
                cure="write K/N with K from 0, such as 0/2",
            )
        return int(match[1]), int(match[2])


class PixelSize(click.ParamType):
    """``WIDTHxHEIGHT``, converted to (width, height)."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        match = re.fullmatch("([1-9][0-9]{0,3})x([1-9][0-9]{0,3})", value)
        if match is None or int(match[1]) * int(match[2]) > MOST_PIXELS:
            raise ConfigError(
                f"{value!r:.40} is no size of an image",
                key="--size",
                cure=f"write WIDTHxHEIGHT, such as 500x375, of at most {MOST_PIXELS:,} pixels",
            )
        return int(match[1]), int(match[2])


class Colour(click.ParamType):
    """A colour as in CSS, ``white`` or ``#rrggbb``, converted to (red, green, blue)."""

    name = "colour"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from PIL import ImageColor  # not for --help

        colour: tuple[int, ...] = ()
        with suppress(ValueError):
            colour = ImageColor.getrgb(value)
        if len(colour) != 3 or max(colour) > 255:
            raise ConfigError(
                f"{value!r} is no colour without alpha",
                key="--background",
                cure="write a name or #rrggbb, such as white or #808080",
            )
        return colour


def own_part() -> tuple[int, int]:
    """This task's part of what ``srun`` or ``mpirun`` has started; (0, 1) in any other process."""
    task = launchers.task()
    return (task.number, task.count) if task else (0, 1)


FOLDER = LocalPath(path_type=Path)
WORKERS = click.option(
    "--workers",
    type=click.IntRange(1, 1024),
    default=1,
    show_default=True,
    help="Number of processes.",
)
SEED = click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    help="Of all random choices.",
)
LABEL_KEY = click.option("--label-key", help="Field of each .json that holds the label.")
IMAGE_KEY = click.option(
    "--image-key",
    metavar="ENDINGS",
    help="What follows the first dot in an image's name, the preferred one first, such as "
    "'png;jpg'. Unless given: jpg;jpeg;png;webp.",
)
CLASSES = click.option(
    "--classes", type=FOLDER, help="File with the name of label 0, 1, ... on each line."
)
CLASSES_OF = click.option(
    "--classes-of",
    type=PLACE,
    metavar="DIR",
    help="Instead, the classes of these shards; labels are theirs.",
)
OPENER = click.option(
    "--opener", metavar="MODULE:FUNCTION", help="Opens remote shards, as data.opener does."
)
PART = click.option(
    "--part",
    type=Part(),
    metavar="K/N",
    default=own_part,
    help="Write only shards K, K+N, ... (K from 0). Unless given, tasks that srun or mpirun has "
    "started share the shards.",
)
PER_SHARD = click.option(
    "--samples-per-shard", type=click.IntRange(1), help="Most samples of a shard; 1,000 by default."
)


class ShardCommands(click.Group):
    """Commands whose errors of the operating system become one sentence with a cure."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except OSError as error:
            if error.errno == errno.EPIPE and error.filename is None:
                raise  # the reader of the output has closed it: click ends quietly
            name = error.filename or f"rwp-dist shards {ctx.invoked_subcommand}"
            kind = ConfigError if error.errno in disk.REFUSED else DataError
            raise kind(f"{name}: {error.strerror or error}", cure=disk.cure_of(error)) from error
