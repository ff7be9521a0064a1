"""simplejpeg and OpenCV, which are installed by the extra ``fast``."""

import importlib
from functools import lru_cache
from types import ModuleType
from typing import Literal

from rwp_dist.base.errors import ConfigError

Optional = Literal["simplejpeg", "cv2"]


class BrokenLibraryError(ConfigError):
    """A library that is installed and does not work."""


@lru_cache(maxsize=2)
def optional_module(name: Optional) -> ModuleType:
    """Import a package.

    Raises:
        ConfigError: it is not installed, or cannot be imported.
    """
    key = "data.interpolation" if name == "cv2" else "data.decoder"
    without = "choose data.decoder=auto and data.interpolation=antialias, which do without it"
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{name} is not installed",
            key=key,
            cure=f"install it with `pip install 'rwp-dist[fast]'`, or {without}",
        ) from error
    except Exception as error:  # for another NumPy (ValueError), without a system's library, ...
        raise BrokenLibraryError(
            f"{name} is installed and cannot be imported ({error})",
            key=key,
            cure=f"mend that, or {without}",
        ) from error
    if name == "cv2":
        # Workers are processes, one per core: threads of OpenCV's own would only get in the way.
        module.setNumThreads(1)
    return module
