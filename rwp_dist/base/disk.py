"""What disks differ in: Lustre, NFS, SMB, FUSE and object stores lack some of what a local one has.

Each difference is met here: no rename over a file, no sync, a clock of their own, no answer.
"""

import errno
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryFile

from rwp_dist.base.errors import ConfigError, RwpError

NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "lustre", "gpfs", "beegfs"})
"""Types of file systems that lie on another machine."""

NOT_OFFERED = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP})
"""What a disk says to a call that it does not know."""
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
REFUSED = frozenset(
    {
        *(errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENOENT),
        *(errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, *NOT_OFFERED),
    }
)
"""What a disk that works says to a place that is wrong. Other errors may be gone a little later."""
NO_REPLACING = frozenset({errno.EEXIST, errno.EPERM, errno.EACCES, *NOT_OFFERED})

NO_ROOM = FULL | {errno.EFBIG}
"""What a disk says that has no room for a file, or to a user who may write none so large."""

_CURES = (
    (FULL, "free space there, or {} another disk"),
    ({errno.EFBIG}, "raise the limit of a file's size (ulimit -f unlimited)"),
    ({errno.ENAMETOOLONG}, "{} a shorter path"),
    ({errno.EROFS}, "{} a place of yours"),
    ({errno.EACCES, errno.EPERM}, "check its permissions, or {} a place of yours"),
    ({errno.EEXIST, errno.ENOTDIR}, "{} a folder, or remove what stands in its place"),
    ({errno.EISDIR}, "{} a file, not a folder"),
    ({errno.ENOENT, errno.ELOOP}, "check its name and its links"),
    ({errno.EMFILE, errno.ENFILE}, "raise the limit of open files (ulimit -n)"),
    (NOT_OFFERED, "{} a disk where files can be written and renamed"),
)
"""What to do about errors; ``{}``: name another place by."""

PATIENCE_S = 30.0
"""How long a disk may take for its first answer: one that sleeps, or a server that restarts."""


def cure_of(error: OSError, name: str = "name") -> str:
    """What to do about an error of a place.

    Args:
        error: what the disk has said.
        name: how another place is given, such as ``set run.dir to``.
    """
    if error.errno == errno.EINVAL and error.strerror != os.strerror(errno.EINVAL):
        return f"{name} another file"  # this one is of a kind that base/files does not read
    cures = [cure for numbers, cure in _CURES if error.errno in numbers]
    return (cures or ["check that disk and its server, or {} another place"])[0].format(name)


def unwritable(
    place: Path,
    error: OSError,
    name: str,
    *,
    key: str | None = None,
    kind: type[RwpError] = RwpError,
) -> RwpError:
    """The error of a place that takes no files: it is wrong, or what is wrong there may pass.

    Args:
        place: a file or folder.
        error: what the disk has said.
        name: see ``cure_of``.
        key: the setting that it is about.
        kind: of an error that may pass.
    """
    kind = ConfigError if error.errno in REFUSED else kind
    problem = f"{place} cannot be written to ({error.strerror or error})"
    return kind(problem, key=key, cure=cure_of(error, name))


def sync(descriptor: int) -> None:
    """Have a file or folder written to the disk itself, where the disk offers that.

    Raises:
        OSError: it is full, or fails.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NOT_OFFERED:
            raise


def replace(old: Path, new: Path) -> None:
    """Give the file ``old`` the name ``new``, and end the file that has this name, if any.

    At once, so that ``new`` is always one of both; on a disk that does not rename over a file it is
    missing for a moment.

    Raises:
        OSError: the disk renames nothing, is full, or fails; both files are what they were.
    """
    try:
        old.replace(new)
    except OSError as error:
        if error.errno not in NO_REPLACING or not new.is_file():
            raise
        aside = old.with_name(f"{old.name}.old.tmp")
        new.rename(aside)
        try:
            old.rename(new)
        except OSError:
            aside.rename(new)
            raise
        aside.unlink()


def disk_time(folder: Path) -> float:
    """The present time by the clock of a folder's disk, which times of files there go by.

    It may be minutes or hours off from this machine's.

    Raises:
        OSError: no file can be made there.
    """
    with TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime


def file_system(place: Path) -> str:
    """Type of the file system that a file or folder lies on, such as ``ext4``; empty if unknown."""
    import psutil  # type: ignore[import-untyped]

    path = place.resolve()
    mounts = {Path(p.mountpoint): p.fstype for p in psutil.disk_partitions(all=True)}
    return next((mounts[level] for level in (path, *path.parents) if level in mounts), "")


def unreachable(paths: Iterable[Path], patience_s: float = PATIENCE_S) -> dict[Path, OSError]:
    """Which paths cannot be looked at, and why; that nothing is there is no reason.

    A disk whose server is gone may never answer, not even to a signal. So each path is looked at in
    a thread of its own, and all together take at most ``patience_s`` seconds.
    """
    found: dict[Path, OSError | None] = {}

    def look(path: Path) -> None:
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError, ValueError):  # the latter: a zero byte
            found[path] = None
        except OSError as error:
            found[path] = error
        else:
            found[path] = None

    lookers = {path: threading.Thread(target=look, args=[path], daemon=True) for path in paths}
    for looker in lookers.values():
        looker.start()
    end = time.monotonic() + patience_s
    for looker in lookers.values():
        looker.join(max(0.0, end - time.monotonic()))
    late = OSError(errno.ETIMEDOUT, f"no answer within {patience_s:.0f} s")
    failed = {path: found.get(path, late) for path in lookers}
    return {path: error for path, error in failed.items() if error is not None}
