"""What a disk may lack: rename over a file, sync, links, the right time, an answer."""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.mounts import silent_disk

from rwp_dist.base import disk
from rwp_dist.base.errors import ConfigError, RwpError
from rwp_dist.base.files import read_file, write_text

RENAME = os.rename
LACKS = [errno.EEXIST, errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def failing(number: int, may_fail: Callable[..., bool]) -> Callable[..., Any]:
    """A rename that fails where ``may_fail``."""

    def rename(old: Any, new: Any, **more: Any) -> None:
        if may_fail(new):
            raise OSError(number, os.strerror(number), str(old), None, str(new))
        RENAME(old, new, **more)

    return rename


@pytest.mark.parametrize("number", LACKS)
def test_a_file_is_replaced_on_a_disk_that_renames_over_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, failing(number, os.path.exists))
    for text in ("one", "two", "three"):
        write_text(tmp_path / "file", text)
        assert (tmp_path / "file").read_text() == text
        assert names(tmp_path) == ["file"]


def test_on_a_disk_that_renames_nothing_the_old_file_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(tmp_path / "file", "old")
    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, failing(errno.EPERM, lambda new: True))
    with pytest.raises(PermissionError) as raised:
        write_text(tmp_path / "file", "new")
    assert raised.value.filename == str(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_replacement_that_fails_half_way_brings_the_old_file_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(tmp_path / "file", "old")
    monkeypatch.setattr(
        os, "replace", failing(errno.EEXIST, lambda new: str(new) == str(tmp_path / "file"))
    )
    left = [True]  # the new file's rename fails once, that of the old file back does not

    def once(new: Any) -> bool:
        return str(new) == str(tmp_path / "file") and bool(left) and left.pop()

    monkeypatch.setattr(os, "rename", failing(errno.EIO, once))
    with pytest.raises(OSError, match="Input/output error"):
        write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_disk_without_sync_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def lacking(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", lacking)
    write_text(tmp_path / "file", "text")
    assert (tmp_path / "file").read_text() == "text"


def test_the_time_of_a_disk_is_that_of_files_made_there(tmp_path: Path) -> None:
    before = time.time()
    assert abs(disk.disk_time(tmp_path) - before) < 5
    assert names(tmp_path) == []


def test_what_cannot_be_looked_at_is_told_from_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    long = tmp_path / ("x" * 300)
    places = [tmp_path, tmp_path / "none" / "x", tmp_path / "file" / "x", long, Path("a\0b")]
    found = disk.unreachable(places)
    assert {path: error.errno for path, error in found.items()} == {long: errno.ENAMETOOLONG}


def test_disks_that_never_answer_are_waited_for_once_and_not_for_ever(tmp_path: Path) -> None:
    with silent_disk(tmp_path / "silent") as folder:
        begin = time.monotonic()
        found = disk.unreachable([folder / "a", tmp_path, folder / "b"], patience_s=0.2)
        assert time.monotonic() - begin < 2
    assert list(found) == [folder / "a", folder / "b"]
    assert str(found[folder / "a"].strerror) == "no answer within 0 s"


@pytest.mark.parametrize(
    ("number", "kind", "cure"),
    [
        (errno.ENOSPC, RwpError, "free space there, or set run.dir to another disk"),
        (errno.EFBIG, RwpError, "raise the limit of a file's size (ulimit -f unlimited)"),
        (errno.EIO, RwpError, "check that disk and its server, or set run.dir to another place"),
        (errno.ENAMETOOLONG, ConfigError, "set run.dir to a shorter path"),
        (errno.EROFS, ConfigError, "set run.dir to a place of yours"),
        (errno.EEXIST, ConfigError, "set run.dir to a folder, or remove what stands in its place"),
    ],
)
def test_an_error_of_a_place_has_the_cure_of_its_kind(
    number: int, kind: type[RwpError], cure: str
) -> None:
    error = OSError(number, os.strerror(number))
    told = disk.unwritable(Path("here"), error, "set run.dir to", key="run.dir")
    assert type(told) is kind
    assert str(told) == f"run.dir: here cannot be written to ({os.strerror(number)}); {cure}."


def test_a_file_of_the_wrong_kind_is_not_the_fault_of_its_disk(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="it is a pipe") as caught:
        read_file(tmp_path / "pipe", 10)
    assert disk.cure_of(caught.value) == "name another file"
