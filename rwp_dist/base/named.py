"""The user's own code by name: ``module:function`` in a setting. Imports no torch."""

import importlib
import sys
from collections.abc import Callable
from typing import Any

from rwp_dist.base.errors import ConfigError


def is_named(value: str) -> bool:
    """Whether a setting is of the form ``module:function``."""
    module, colon, name = value.partition(":")
    return bool(colon and module and name)


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
    if "" not in sys.path:  # a console script does not search the working directory
        sys.path.append("")
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
    loaded: Callable[..., Any] = function
    return loaded
