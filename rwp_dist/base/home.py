"""A home and folders for what programs keep, also for users who have none. Imports no torch.

A number without a passwd entry, as containers have it, has no home, and a home may be read-only.
Then libraries make a folder named ``~`` in the working directory, end with a traceback, or fill the
console.
"""

import os
import stat
import tempfile
from pathlib import Path

from rwp_dist.base.errors import ConfigError

TRITON = "TRITON_CACHE_DIR", "TRITON_HOME"
"""Environment variables that say where Triton keeps what it compiles."""


_OWN = f"rwp-dist-{os.getuid()}"
"""Name of this user's folder among those for temporary files."""


def provide_home() -> None:
    """Give this process and those that it starts a home and a cache folder, if the user has none.

    They are in a private folder for temporary files. What the user has set stays. If there can be
    no home, ``check_home`` says so.
    """
    try:
        home = Path.home()
    except RuntimeError:  # no HOME, no passwd entry
        own = own_folder("home")
        if own is None:
            return
        os.environ["HOME"], home = str(own), own
    # A home that is not there is not made: root could make any.
    usable = home.is_dir() and _is_mine(home / ".cache")
    if "XDG_CACHE_HOME" not in os.environ and not usable:
        own = own_folder("cache")
        if own is not None:
            os.environ["XDG_CACHE_HOME"] = str(own)


def check_home() -> None:
    """Refuse to work without a home.

    Raises:
        ConfigError: this user has none, and could be given none (``provide_home``).
    """
    try:
        Path.home()
    except RuntimeError:
        raise ConfigError(
            "this user has no home folder, and no private one can be made at "
            f"{_OWN} among temporary files",
            cure="set HOME (or TMPDIR) to a folder of yours",
        ) from None


def own_folder(name: str) -> Path | None:
    """A private folder of this user among those for temporary files; None if there can be none."""
    try:
        place = Path(tempfile.gettempdir()) / _OWN
    except FileNotFoundError:  # nothing can be written to
        return None
    return place / name if _is_mine(place, private=True) and _is_mine(place / name) else None


def kernels_folder() -> Path:
    """Where Triton keeps its kernels: its usual folder or, from now on, another if need be.

    Raises:
        ConfigError: files of no such folder may be executed.
    """
    told = [os.environ[name] for name in TRITON if os.environ.get(name)]
    if told:
        return Path(told[0])
    usual = Path.home() / ".triton" / "cache"
    if Path.home().is_dir() and _is_mine(usual) and may_execute(usual):
        return usual
    own = own_folder("triton")
    if own is None or not may_execute(own):
        raise ConfigError(
            f"Triton cannot keep what it compiles in {usual} and execute it, nor in a folder for "
            "temporary files",
            cure="set TRITON_CACHE_DIR to a folder whose files may be executed (docker run --tmpfs "
            "/tmp:exec)",
        )
    os.environ[TRITON[0]] = str(own)
    return own


def may_execute(folder: Path) -> bool:
    """Whether a folder's disk allows programs and libraries (no noexec)."""
    return not os.statvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 0)


def _is_mine(folder: Path, *, private: bool = False) -> bool:
    """Whether this user can write to a folder, which is made; ``private``: and nobody else."""
    try:
        folder.mkdir(mode=0o700 if private else 0o777, parents=True, exist_ok=True)
        status = folder.lstat() if private else folder.stat()
    except OSError:
        return False
    if private and (status.st_uid != os.geteuid() or status.st_mode & 0o077):
        return False
    return stat.S_ISDIR(status.st_mode) and os.access(folder, os.W_OK | os.X_OK)
