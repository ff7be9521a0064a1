"""``region.c`` and ``huffman.c`` compiled against the system's libjpeg-turbo, at their first use.

Takes a quarter of a second; the library stays in ``~/.cache/rwp-dist/compiled``.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rwp_dist.errors import ConfigError

SOURCES = [Path(__file__).with_name(name) for name in ("region.c", "huffman.c")]
HEADER = Path(__file__).with_name("huffman.h")
OPTIONS = ["-O2", "-shared", "-fPIC", "-Werror=implicit-function-declaration"]

COMPILE_S = 60.0
"""Longest that a compiler may take."""


def decode_region(
    data: bytes, channels: int, left: int, top: int, width: int, height: int
) -> NDArray[np.uint8] | None:
    """A rectangle of a JPEG: uint8 ``[height, width, channels]``.

    None if the image is damaged, no JPEG, or does not hold the rectangle. Damage below the
    rectangle is not seen.

    Args:
        data: the file.
        channels: 1 (grey) or 3 (RGB).
        left: first column.
        top: first row.
        width: columns.
        height: rows.

    Raises:
        ConfigError: the C files cannot be compiled here.
    """
    out = np.empty((height, width, channels), dtype=np.uint8)
    failed = library().decode_region(
        data, len(data), channels, left, top, width, height, out.ctypes.data
    )
    return None if failed else out


@lru_cache(maxsize=1)
def available() -> bool:
    """Whether the C files are compiled or can be."""
    try:
        library()
    except ConfigError:
        return False
    return True


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL:
    """The compiled C files.

    Raises:
        ConfigError: there is no compiler, no libjpeg-turbo to compile against, or no place.
    """
    key = _key()
    try:
        path = _folder() / f"region-{key}.so"
        try:
            compiled = ctypes.CDLL(str(path))
        except OSError:  # not there yet, or by a machine with another libjpeg
            _compile(path)
            compiled = ctypes.CDLL(str(path))
    except (OSError, RuntimeError) as error:  # the latter: a user without a home
        raise ConfigError(
            f"data.decoder=libjpeg: what it compiles cannot be kept or loaded ({error}). Set "
            "XDG_CACHE_HOME to a folder that can be written, or choose data.decoder=auto."
        ) from error
    number = ctypes.c_uint
    compiled.decode_region.argtypes = [
        *(ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int),
        *(number, number, number, number, ctypes.c_void_p),
    ]
    return compiled


def _key() -> str:
    """Of what is compiled, and for which machines."""
    content = b"".join(path.read_bytes() for path in (*SOURCES, HEADER))
    return hashlib.sha256(content + platform.machine().encode()).hexdigest()[:16]


def _folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(cache) if cache else Path.home() / ".cache") / "rwp-dist" / "compiled"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _compile(path: Path) -> None:
    names = shlex.split(os.environ.get("CC", "")) or ["cc"]
    if shutil.which(names[0]) is None:
        raise ConfigError(
            f"data.decoder=libjpeg needs a C compiler, and there is no {names[0]!r}. Install one, "
            "or choose data.decoder=auto."
        )
    # Under a name of its own, then renamed: ranks and workers may compile at once.
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        command = [*names, *OPTIONS, *map(str, SOURCES), "-o", str(made), "-ljpeg"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_S)
        except subprocess.TimeoutExpired as error:
            raise OSError(f"{names[0]} took more than {COMPILE_S:.0f} s") from error
        if done.returncode:
            what = next((line for line in done.stderr.splitlines() if "error" in line), "no reason")
            raise ConfigError(
                f"data.decoder=libjpeg needs libjpeg-turbo with its headers ({what.strip()}). "
                "Install them (Debian and Ubuntu: apt install libjpeg-dev; Fedora: "
                "libjpeg-turbo-devel), or choose data.decoder=auto."
            )
        made.replace(path)
