"""simplejpeg and OpenCV, which are installed by the extra ``fast``."""

import importlib
import importlib.util
from functools import lru_cache
from types import ModuleType
from typing import Literal

from rwp_dist.base.errors import ConfigError

Optional = Literal["simplejpeg", "cv2"]


def is_installed(name: Optional) -> bool:
    """Whether a package is there; it is not imported."""
    return importlib.util.find_spec(name) is not None


@lru_cache(maxsize=2)
def optional_module(name: Optional) -> ModuleType:
    """Import a package.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"{name} is not installed",
            key="data.interpolation" if name == "cv2" else "data.decoder",
            cure="install it with `pip install 'rwp-dist[fast]'`, or choose data.decoder=auto and "
            "data.interpolation=antialias, which do without it",
        ) from error
    if name == "cv2":
        # Workers are processes, one per core: threads of OpenCV's own would only get in the way.
        module.setNumThreads(1)
    return module
