"""The user's own code by name: ``module:function`` in a setting. Imports no torch."""

import importlib
import importlib.util
import site
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rwp_dist.base.errors import ConfigError


def is_named(value: str) -> bool:
    """Whether a setting is of the form ``module:function``."""
    module, _, name = value.partition(":")
    return all(part.isidentifier() for part in (*module.split("."), name))


def load_named(value: str, *, key: str) -> Callable[..., Any]:
    """The function that ``module:function`` names; the working directory is searched too.

    Args:
        value: dotted module, a colon, a name in it.
        key: the setting it stands in, for the error.

    Raises:
        ConfigError: there is no such module or function, or the module fails to import.
    """
    module, _, name = value.partition(":")
    if not is_named(value):
        raise ConfigError(f"{value!r} names no function", key=key, cure="write module:function")
    _search_working_directory()
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:  # the module is the user's, and may raise anything
        raise ConfigError(
            f"{value!r} cannot be loaded ({type(error).__name__}: {error})",
            key=key,
            cure="write module:function, with a module that Python finds from here",
        ) from error
    if not callable(function):
        raise ConfigError(f"{value!r} is no function", key=key, cure="name one")
    return function


def find_source(value: str) -> Path | None:
    """The file or the top-level package that ``module:function`` names, without importing it.

    None if Python finds none from here, or if it is installed (in ``site-packages``) or part of
    Python.
    """
    top = value.partition(":")[0].partition(".")[0]
    _search_working_directory()
    spec = importlib.util.find_spec(top)
    if spec is None:
        return None
    if spec.submodule_search_locations:
        path = Path(next(iter(spec.submodule_search_locations))).absolute()
    elif spec.has_location and spec.origin:
        path = Path(spec.origin).absolute()
    else:
        return None  # built in
    installed = [*site.getsitepackages(), site.getusersitepackages(), sysconfig.get_path("stdlib")]
    return None if any(path.is_relative_to(folder) for folder in installed) else path


def _search_working_directory() -> None:
    """Look for modules in the working directory too, as a console script does not."""
    if "" not in sys.path:
        sys.path.append("")
