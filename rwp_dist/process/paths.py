"""Types of the paths on a command line. The shell leaves the ``~`` of ``--out=~/x`` as it is."""

import os
import sys
from pathlib import Path
from typing import Any

import click

from rwp_dist.base.disk import REFUSED, cure_of, unreachable
from rwp_dist.base.errors import ConfigError
from rwp_dist.base.files import expand_home
from rwp_dist.base.urls import is_address
from rwp_dist.process.stages import stage


class HomePath(click.Path):
    """A path, with the home folder in place of its ``~`` or ``~user``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        key = None if param is None else max(param.opts, key=len)
        try:
            value = expand_home(value) if str(value).startswith("~") else value
        except ValueError as error:
            raise ConfigError(str(error), key=key, cure="write the whole path") from None
        text = str(value)
        if "=" not in text and not is_address(text):
            self._reach(Path(text), key)
        return super().convert(value, param, ctx)

    def _reach(self, path: Path, key: str | None) -> None:
        """Look at a path before a command does, which a disk whose server is gone could hold."""
        with stage("waiting for a disk", file=sys.stderr):
            errors = unreachable([path])
        for error in errors.values():
            if self.type is Path or error.errno not in REFUSED:
                raise ConfigError(
                    f"{path} cannot be looked at ({error.strerror or error})",
                    key=key,
                    cure=cure_of(error),
                )


def is_override(word: str | Path) -> bool:
    """Whether a word is ``key=value`` and no path; it may be longer than any path."""
    return "=" in str(word) and not os.path.exists(word)  # noqa: PTH110 - Path's raises errors


PATH = HomePath(path_type=Path)
PLACE = HomePath(path_type=str, readable=False)
"""A path, or other text, which begins with no ``~``: an address, ``key=value``, an image's name."""
