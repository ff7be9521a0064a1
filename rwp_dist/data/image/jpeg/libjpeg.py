"""The C files beside this one, compiled against the system's libjpeg-turbo at their first use.

Takes a second; the library stays in ``~/.cache/rwp-dist/compiled``.
"""

import ctypes
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rwp_dist.base.compiled import CLibrary
from rwp_dist.data.image.pixels import Encoded
from rwp_dist.data.image.view import View

HERE = Path(__file__).parent
LIBRARY = CLibrary(
    key="data.decoder",
    value="libjpeg",
    instead="choose data.decoder=auto",
    repair="install libjpeg-turbo with its headers (Debian and Ubuntu: apt install libjpeg-dev; "
    "Fedora: libjpeg-turbo-devel)",
    files=(HERE / "region.c", HERE / "huffman.c", HERE / "resize.c"),
    headers=(HERE / "huffman.h", HERE / "resize.h"),
    options=(
        *("-O2", "-ftree-vectorize", "-Werror=implicit-function-declaration"),
        # Weights of resizing must not depend on whether a processor fuses operations.
        "-ffp-contract=off",
    ),
    libraries=("-ljpeg", "-lm"),
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


def decode_view(data: Encoded, view: View, out: NDArray[np.uint8]) -> bool:
    """Write what is seen of a JPEG into ``out``: uint8 ``[H, W, C]``, C being 1 (grey) or 3 (RGB).

    The pixels are those of ``resize`` with antialiasing.

    Returns:
        False where ``decode_region`` gives None, or there is no memory for it.

    Raises:
        ConfigError: the C files cannot be compiled here.
    """
    assert out.flags.c_contiguous, "rows follow each other"
    height, width, channels = out.shape
    at = data if isinstance(data, bytes) else ctypes.addressof(ctypes.c_char.from_buffer(data))
    failed = library().decode_view(
        *(at, len(data), channels, *view.region),
        *(view.width, view.height, view.left, view.top),
        *(width, height, view.mirrored, out.ctypes.data),
    )
    return not failed


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
    compiled.decode_view.argtypes = [
        *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int),
        *(number, number, number, number),
        *(number, number, number, number),
        *(number, number, ctypes.c_int, ctypes.c_void_p),
    ]
    return compiled
