"""C files of this project, compiled when they are first used.

The libraries stay in ``~/.cache/rwp-dist/compiled`` (or below ``XDG_CACHE_HOME``)::

    normals-0123456789abcdef.so     named after the content of the files and the environment

Compiling takes less than a second, and one process of a machine does it. Where nothing can be kept,
each process does, and where files may not be executed, libraries are loaded from memory.
"""

import ctypes
import errno
import hashlib
import os
import platform
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from rwp_dist.base.disk import disk_time
from rwp_dist.base.errors import ConfigError
from rwp_dist.base.files import expand_home
from rwp_dist.base.parent import end_with_parent

COMPILE_S = 60.0
"""Longest that a compiler may take."""

PAUSE_S = 0.05
"""Between two looks at whether another process still compiles."""

LEFT_S = 3600.0
"""A compiler's folder of this age was left by a process that was killed."""

ANOTHER = "set CC to another C compiler"

_too_slow: set[str] = set()
"""Compilers that took too long in this process."""


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
            ConfigError: there is no compiler, it fails or takes too long, or nothing can be
                written.
        """
        # Without a home no folder can be made, as none can in a file.
        place = compiled_folder() or Path(os.devnull)
        path = place / f"{self.files[0].stem}-{self._digest()}.so"
        with suppress(OSError):  # missing, or compiled on a machine with other system libraries
            return _open(path)
        compiler = self._compiler()
        with _turn():
            with suppress(OSError):  # another process may have compiled it meanwhile
                return _open(path)
            try:
                return self._compiled(path, compiler)
            except OSError as error:
                raise self._error(
                    f"cannot be compiled or loaded ({error})",
                    "set XDG_CACHE_HOME to a folder that can be written",
                ) from error

    def _digest(self) -> str:
        environment = sys.prefix, platform.libc_ver(), os.environ.get("CC"), platform.machine()
        digest = hashlib.sha256(repr((self.options, environment)).encode())
        for path in (*self.files, *self.headers):
            digest.update(path.read_bytes())
        if self.native:
            digest.update(_processor().encode())
        return digest.hexdigest()[:16]

    def _compiler(self) -> list[str]:
        """The command that starts the compiler.

        Raises:
            ConfigError: there is none, or it took too long before.
        """
        named = os.environ.get("CC", "")
        try:
            compiler = shlex.split(named) or ["cc"]
        except ValueError as error:
            problem = f"needs a C compiler, and CC={named} is no command ({error})"
            raise self._error(problem, ANOTHER) from None
        if shutil.which(compiler[0]) is None:
            raise self._error(
                f"needs a C compiler, and there is no {compiler[0]!r}", "install a C compiler"
            )
        if shlex.join(compiler) in _too_slow:
            raise self._late(compiler)
        return compiler

    def _compiled(self, path: Path, compiler: list[str]) -> ctypes.CDLL:
        """Compile and load the library; keep it as ``path`` if there is a place for it.

        Raises:
            ConfigError: the compiler fails, or takes too long.
            OSError: nothing can be written, or the library cannot be loaded.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(path.parent)
            with TemporaryDirectory(dir=path.parent) as folder:
                _publish(self._compile(Path(folder), compiler), path, replace=path.exists())
            return _open(path)
        except OSError:  # a home that is full, read-only or not there: compile at each start
            with TemporaryDirectory() as folder:
                return _from_memory(self._compile(Path(folder), compiler))

    def _compile(self, folder: Path, compiler: list[str]) -> Path:
        """The new library, in a folder of its own."""
        library, begin = folder / "library.so", time.monotonic()
        command = [*compiler, "-shared", "-fPIC", *self.options, *map(str, self.files)]
        try:
            code, said = _run([*command, "-o", str(library), *self.libraries], folder)
        except subprocess.TimeoutExpired:
            _too_slow.add(shlex.join(compiler))
            end = f"no end after {COMPILE_S:.0f} s, so {compiler[0]} is not started again"
            print(f"compiling {self.files[0].name}: {end}", file=sys.stderr, flush=True)
            raise self._late(compiler) from None
        if code:
            if os.strerror(errno.ENOSPC) in said:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
            lines = said.splitlines()
            reason = next((line for line in lines if "error" in line), "no reason given")
            raise self._error(f"cannot be compiled ({reason.strip()})", self.repair)
        seconds = time.monotonic() - begin
        print(f"compiling {self.files[0].name}: {seconds:.1f} s", file=sys.stderr, flush=True)
        return library

    def _late(self, compiler: list[str]) -> ConfigError:
        late = f"{compiler[0]} took more than {COMPILE_S:.0f} s"
        return self._error(f"cannot be compiled ({late})", ANOTHER)

    def _error(self, problem: str, cure: str) -> ConfigError:
        return ConfigError(
            f"{self.value} {problem}", key=self.key, cure=f"{cure}, or {self.instead}"
        )


def _run(command: list[str], folder: Path) -> tuple[int, str]:
    """Exit code and messages of a compiler, which ends with this process, however that happens.

    A shell leads the group of the compiler and its parts, hears of this process's death and then
    kills the group: the compiler's own death would leave its parts running.

    Raises:
        subprocess.TimeoutExpired: it took too long.
    """
    leader = ["sh", "-c", 'trap "kill -9 0" TERM; "$@" & wait $!', "sh", *command]
    with subprocess.Popen(
        leader,
        env=os.environ | {"TMPDIR": str(folder)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        errors="replace",
        start_new_session=True,
        preexec_fn=partial(end_with_parent, signal.SIGTERM),
    ) as compiler:
        try:
            said = compiler.communicate(timeout=COMPILE_S)[1]
        except BaseException:
            os.killpg(compiler.pid, signal.SIGKILL)
            raise
    return compiler.returncode, said


def _remove_leftovers(folder: Path) -> None:
    """Remove the compilers' folders of processes that were killed, also those of other machines.

    Raises:
        OSError: nothing can be written there.
    """
    now = disk_time(folder)
    for left in folder.glob("tmp*"):
        with suppress(OSError):  # another process removes it, too
            if now - left.stat().st_mtime > LEFT_S:
                shutil.rmtree(left)


@contextmanager
def _turn() -> Iterator[None]:
    """Let one process of a user compile at a time; after ``COMPILE_S`` it waits no longer.

    Its sign is a name of Linux's for sockets without files: any disk will do, and the kernel takes
    it back when the process ends.
    """
    end = time.monotonic() + COMPILE_S
    with socket.socket(socket.AF_UNIX) as sign:
        while sys.platform == "linux" and time.monotonic() < end:
            try:
                sign.bind(f"\0rwp-dist-compiles-{os.getuid()}")
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    break
                time.sleep(PAUSE_S)
        yield


def _open(path: Path) -> ctypes.CDLL:
    """Load a library, also from a disk whose files may not be executed (noexec).

    Raises:
        OSError: there is none, or it is of no use here.
    """
    try:
        return ctypes.CDLL(str(path))
    except OSError:
        return _from_memory(path)


def _from_memory(path: Path) -> ctypes.CDLL:
    if sys.platform != "linux":
        return ctypes.CDLL(str(path))
    content = path.read_bytes()
    # Never closed: the loader knows a library by its name, which is this number.
    file = os.memfd_create(path.name)
    with open(file, "wb", closefd=False) as memory:
        memory.write(content)
    return ctypes.CDLL(f"/proc/self/fd/{file}")


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


def compiled_folder() -> Path | None:
    """Where libraries are kept; None for a user without a home."""
    try:
        cache = os.environ.get("XDG_CACHE_HOME") or expand_home("~/.cache")
    except ValueError:
        return None
    return Path(cache) / "rwp-dist" / "compiled"


def _processor() -> str:
    """The instruction sets of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
