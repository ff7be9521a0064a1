"""C files of this project, compiled at their first use; libraries stay in the user's cache.

It takes less than a second, and ranks and workers that compile at once do not disturb each other.
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
class Program:
    """C files that become one library, and what users are told where that fails."""

    setting: str
    """What wants it: ``data.decoder=libjpeg``."""
    instead: str
    """What to do without it: ``choose data.decoder=auto``."""
    lacks: str
    """What is wrong if the compiler fails; ``{}`` stands for its words."""
    files: tuple[Path, ...]
    headers: tuple[Path, ...] = ()
    options: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    native: bool = False
    """Made for this machine's processor, and so not to be shared with others in a common home."""

    def load(self) -> ctypes.CDLL:
        """The library, compiled if it is not there yet.

        Raises:
            ConfigError: there is no compiler, something to compile against is missing, or there is
                no place for what is compiled.
        """
        try:
            path = _folder() / f"{self.files[0].stem}-{self._key()}.so"
            try:
                return ctypes.CDLL(str(path))
            except OSError:  # not there yet, or by a machine with other libraries
                self._compile(path, replacing=path.exists())
                return ctypes.CDLL(str(path))
        except (OSError, RuntimeError) as error:  # the latter: a user without a home
            raise ConfigError(
                f"{self.setting}: what it compiles cannot be kept or loaded ({error}). Set "
                f"XDG_CACHE_HOME to a folder that can be written, or {self.instead}."
            ) from error

    def _key(self) -> str:
        """Of what is compiled, how, and for which machines."""
        digest = hashlib.sha256(repr((self.options, platform.machine())).encode())
        for path in (*self.files, *self.headers):
            digest.update(path.read_bytes())
        if self.native:
            digest.update(_processor().encode())
        return digest.hexdigest()[:16]

    def _compile(self, path: Path, replacing: bool) -> None:
        names = shlex.split(os.environ.get("CC", "")) or ["cc"]
        if shutil.which(names[0]) is None:
            raise ConfigError(
                f"{self.setting} needs a C compiler, and there is no {names[0]!r}. Install one, or "
                f"{self.instead}."
            )
        # Under a name of its own: ranks and workers may compile at once.
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / path.name
            command = [*names, "-shared", "-fPIC", *self.options, *map(str, self.files)]
            command += ["-o", str(made), *self.libraries]
            try:
                done = subprocess.run(
                    command, capture_output=True, errors="replace", timeout=COMPILE_S
                )
            except subprocess.TimeoutExpired as error:
                raise OSError(f"{names[0]} took more than {COMPILE_S:.0f} s") from error
            if done.returncode:
                lines = done.stderr.splitlines()
                words = next((line for line in lines if "error" in line), "no reason")
                raise ConfigError(f"{self.lacks.format(words.strip())}, or {self.instead}.")
            _publish(made, path, replacing)


def _publish(made: Path, path: Path, replacing: bool) -> None:
    """Give a file its name, unless another process has been faster.

    Over NFS a library must not be taken away from a machine that has it loaded.
    """
    if not replacing:
        try:
            os.link(made, path)
            return
        except FileExistsError:
            return
        except OSError:  # a filesystem without links
            pass
    made.replace(path)


def _folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(cache) if cache else Path.home() / ".cache") / "rwp-dist" / "compiled"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _processor() -> str:
    """What this machine's processor can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
