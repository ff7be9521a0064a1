"""``region.c`` and ``huffman.c`` compiled against the system's libjpeg-turbo, at their first use.

Takes a quarter of a second; the library stays in ``~/.cache/rwp-dist/compiled``.
"""

import ctypes
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rwp_dist.base.compiled import CLibrary

HERE = Path(__file__).parent
LIBRARY = CLibrary(
    key="data.decoder",
    value="libjpeg",
    instead="choose data.decoder=auto",
    repair="install libjpeg-turbo with its headers (Debian and Ubuntu: apt install libjpeg-dev; "
    "Fedora: libjpeg-turbo-devel)",
    files=(HERE / "region.c", HERE / "huffman.c"),
    headers=(HERE / "huffman.h",),
    options=("-O2", "-Werror=implicit-function-declaration"),
    libraries=("-ljpeg",),
)


def decode_region(
    data: bytes, channels: int, left: int, top: int, width: int, height: int
) -> NDArray[np.uint8] | None:
    """A rectangle of a JPEG: uint8 ``[height, width, channels]``, 1 channel (grey) or 3 (RGB).

    None if the image is damaged, no JPEG, lacks scans, or does not hold the rectangle. Below the
    rectangle only damage is seen for which libjpeg would refuse the whole image.

    Raises:
        ConfigError: the C files cannot be compiled here.
    """
    out = np.empty((height, width, channels), dtype=np.uint8)
    failed = library().decode_region(
        data, len(data), channels, left, top, width, height, out.ctypes.data
    )
    return None if failed else out


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL:
    """The compiled C files.

    Raises:
        ConfigError: there is no compiler, no libjpeg-turbo to compile against, or no place.
    """
    compiled = LIBRARY.load()
    number = ctypes.c_uint
    compiled.decode_region.argtypes = [
        *(ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int),
        *(number, number, number, number, ctypes.c_void_p),
    ]
    return compiled
