"""Names of a package whose modules are imported when a name is first used."""

from collections.abc import Callable
from importlib import import_module
from typing import Any


def lazy_names(package: str, /, **modules: str) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package that offers names without importing what they need.

    The package imports the same names under ``TYPE_CHECKING``, for the type checker.

    Args:
        package: its ``__name__``.
        modules: the module inside the package that defines each name.

    Returns:
        A function that raises AttributeError for any other name.
    """

    def find(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{modules[name]}"), name)

    return find
