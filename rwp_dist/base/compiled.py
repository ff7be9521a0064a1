"""C files of this project, compiled when they are first used.

The libraries stay in ``~/.cache/rwp-dist/compiled`` (or below ``XDG_CACHE_HOME``)::

    normals-0123456789abcdef.so     named after the content of the files and the options

Compiling takes less than a second. Ranks and workers may compile at the same time.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rwp_dist.base.errors import ConfigError

COMPILE_S = 60.0
"""Longest that a compiler may take."""


@dataclass(frozen=True)
class CLibrary:
    """C files that are compiled to one library.

    The first four fields are for errors.
    """

    key: str
    """The setting that asks for the library: ``data.decoder``."""
    value: str
    """Its value: ``libjpeg``."""
    instead: str
    """How to do without the library: ``choose data.decoder=auto``."""
    repair: str
    """What to do if the compiler fails: ``set CC to another compiler``."""
    files: tuple[Path, ...]
    headers: tuple[Path, ...] = ()
    options: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    """Options for the linker, which come last."""
    native: bool = False
    """Whether the options depend on the processor. A home directory that several machines share
    then holds a library for each kind of processor."""

    def load(self) -> ctypes.CDLL:
        """Load the library; compile it if it is missing.

        Raises:
            ConfigError: there is no compiler, the compiler fails, or the cache cannot be written.
        """
        try:
            path = _cache_folder() / f"{self.files[0].stem}-{self._digest()}.so"
            try:
                return ctypes.CDLL(str(path))
            except OSError:  # missing, or compiled on a machine with other system libraries
                self._compile(path, replace=path.exists())
                return ctypes.CDLL(str(path))
        except (OSError, RuntimeError) as error:  # RuntimeError: the user has no home
            raise self._error(
                f"cannot be compiled or loaded ({error})",
                "set XDG_CACHE_HOME to a folder that can be written",
            ) from error

    def _digest(self) -> str:
        digest = hashlib.sha256(repr((self.options, platform.machine())).encode())
        for path in (*self.files, *self.headers):
            digest.update(path.read_bytes())
        if self.native:
            digest.update(_processor().encode())
        return digest.hexdigest()[:16]

    def _compile(self, path: Path, replace: bool) -> None:
        compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
        if shutil.which(compiler[0]) is None:
            raise self._error(
                f"needs a C compiler, and there is no {compiler[0]!r}", "install a C compiler"
            )
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            temporary = Path(folder) / path.name
            command = [*compiler, "-shared", "-fPIC", *self.options, *map(str, self.files)]
            command += ["-o", str(temporary), *self.libraries]
            try:
                done = subprocess.run(
                    command, capture_output=True, errors="replace", timeout=COMPILE_S
                )
            except subprocess.TimeoutExpired as error:
                raise OSError(f"{compiler[0]} took more than {COMPILE_S:.0f} s") from error
            if done.returncode:
                lines = done.stderr.splitlines()
                reason = next((line for line in lines if "error" in line), "no reason given")
                raise self._error(f"cannot be compiled ({reason.strip()})", self.repair)
            _publish(temporary, path, replace)

    def _error(self, problem: str, cure: str) -> ConfigError:
        return ConfigError(
            f"{self.value} {problem}", key=self.key, cure=f"{cure}, or {self.instead}"
        )


def _publish(temporary: Path, path: Path, replace: bool) -> None:
    """Give a file its name, unless another process was faster.

    ``atomic_file`` would not do: it replaces the file of the faster process. On NFS, this takes
    the library away from a machine that has already loaded it.
    """
    if not replace:
        try:
            os.link(temporary, path)
            return
        except FileExistsError:
            return
        except OSError:  # a file system without links
            pass
    temporary.replace(path)


def _cache_folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(cache) if cache else Path.home() / ".cache") / "rwp-dist" / "compiled"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _processor() -> str:
    """The instruction sets of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
