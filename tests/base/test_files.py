"""A write that fails leaves the old file, no temporary one, and an error that names the file."""

import errno
import json
import os
from pathlib import Path

import pytest

from rwp_dist.base.files import (
    atomic_file,
    read_lines,
    remove_leftovers,
    write_bytes,
    write_json,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_in_a_folder_that_is_made(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "file"
    write_bytes(path, b"old")
    write_text(path, "né")
    assert path.read_bytes() == "né".encode()
    assert names(path.parent) == ["file"]


def test_a_write_that_fails_leaves_the_old_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_text(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError) as raised:
        write_text(path, "new")
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(path))
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic_file(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_errors_name_the_file_that_failed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError) as raised:
        write_text(tmp_path / "file" / "below", "text")
    assert raised.value.filename == str(tmp_path / "file")
    with pytest.raises(IsADirectoryError) as is_folder:
        (tmp_path / "folder").mkdir()
        write_text(tmp_path / "folder", "text")
    assert is_folder.value.filename == str(tmp_path / "folder")
    with pytest.raises(FileNotFoundError) as missing, atomic_file(tmp_path / "copy"):
        (tmp_path / "source").read_bytes()
    assert missing.value.filename == str(tmp_path / "source")


def test_content_is_on_disk_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    synced = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        synced.append((Path(f"/proc/self/fd/{descriptor}").readlink(), path.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    write_text(path, "text")
    (file, named), (folder, _) = synced
    assert file.name.startswith(".file.") and not named
    assert folder == tmp_path


def test_leftovers_of_killed_writers_are_removed(tmp_path: Path) -> None:
    for name in (".a.host-1.tmp", ".a.host-2.tmp", ".b.host-1.tmp", "a", "b"):
        (tmp_path / name).write_text("")
    remove_leftovers(tmp_path, "a")
    assert names(tmp_path) == [".b.host-1.tmp", "a", "b"]
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["a", "b"]


def test_json_is_strict(tmp_path: Path) -> None:
    write_json(tmp_path / "file", {"a": [float("nan"), 1.5], "b": (float("inf"), "é")})
    text = (tmp_path / "file").read_text()
    assert json.loads(text) == {"a": [None, 1.5], "b": [None, "é"]}
    assert "é" in text and text.endswith("}\n")


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbfant\r\nb\xc3\xa9e\r\n",
        "ant\r\nbée\r\n".encode("utf-16"),
        "\ufeffant\nbée".encode("utf-16-be"),
        "ant\rbée\r".encode(),
    ],
)
def test_lines_are_those_that_an_editor_shows(tmp_path, data):
    (tmp_path / "list").write_bytes(data)
    assert read_lines(tmp_path / "list") == ["ant", "bée"]


def test_only_ends_of_lines_end_lines(tmp_path):
    (tmp_path / "list").write_bytes("a\u2028b\x85\x0cc\n\nd\n".encode())
    assert read_lines(tmp_path / "list") == ["a\u2028b\x85\x0cc", "", "d"]


def test_a_file_is_written_where_folders_cannot_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some servers of files refuse it."""
    open_it = os.open

    def refuse(path: Path, *args: int) -> int:
        if Path(path).is_dir():
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return open_it(path, *args)

    monkeypatch.setattr(os, "open", refuse)
    write_text(tmp_path / "file", "text")
    assert (tmp_path / "file").read_text("utf-8") == "text"
