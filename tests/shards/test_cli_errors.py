import errno
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from rwp_dist.cli import main
from rwp_dist.shards import digits
from rwp_dist.shards.cli import shards


def call(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["shards", *map(str, arguments)], terminal_width=80)
    assert isinstance(result.exception, SystemExit | None), result.exception
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("number", "code", "cure"),
    [
        (errno.EACCES, 2, "check its permissions, or name a place of yours"),
        (errno.EROFS, 2, "name a place of yours"),
        (errno.ENOSPC, 1, "free space there, or name another disk"),
        (errno.EIO, 1, "check that disk and its server, or name another place"),
    ],
)
def test_an_error_of_the_system_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, number: int, code: int, cure: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), "runs/ro/train")

    monkeypatch.setattr(digits, "write_digits", refuse)
    assert call("digits", "--out", "runs/ro") == (
        code,
        f"runs/ro/train: {os.strerror(number)}; {cure}.\n",
    )


def test_an_error_without_a_file_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise TimeoutError("timed out")

    monkeypatch.setattr(digits, "write_digits", refuse)
    code, text = call("digits")
    assert (code, text.split(";")[0]) == (1, "rwp-dist shards digits: timed out")


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, text = call("digits", "--out", tmp_path / "file" / "digits")
    assert code == 2
    assert "Not a directory; name a folder" in text.splitlines()[-1]  # a slow disk has a line too


@pytest.mark.parametrize("name", sorted(shards.commands))
def test_every_command_fails_in_one_sentence_on_a_closed_folder(tmp_path: Path, name: str) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    if os.access(closed, os.W_OK):
        pytest.skip("nothing is closed to root")
    here = closed / "x"
    arguments = {
        "cifar100": [here, "--out", here],
        "digits": ["--out", here],
        "index": [here],
        "stats": [here],
        "synthetic": ["--num", 1, "--size", "8x8", "--out", here],
        "verify": [here],
        "write": [here, "--out", here],
    }[name]
    code, text = call(name, *arguments)
    assert code == 1
    assert str(closed) in text
    assert "Permission denied" in text
    assert "Traceback" not in text


def test_help_says_all_of_what_commands_are_for() -> None:
    code, text = call("--help")
    assert code == 0
    for name, command in shards.commands.items():
        assert f"{name:<9}  {command.short_help}" in text
        assert not command.get_short_help_str(20).endswith("...")
    assert not shards.get_short_help_str(20).endswith("...")


@pytest.mark.parametrize(
    "arguments",
    [
        ("verify", "https://host/shards"),
        ("stats", "https://host/shards"),
        ("synthetic", "--num", 4, "--out", "s3://bucket/train"),
        ("index", "https://host/{0..3}.tar", "--out", "gs://bucket/train"),
    ],
)
def test_a_remote_place_is_not_taken_for_a_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[object, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = call(*arguments)
    assert code != 0 and "this place is remote; give a local folder" in said
    assert "shards index URLS --out FOLDER" in said
    assert not list(tmp_path.iterdir())


def test_a_file_url_is_the_path_that_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folders = {name: (tmp_path / name).as_uri() for name in ("one", "two", "three")}
    for arguments in (
        ("synthetic", "--num", 4, "--size", "24x16", "--out", folders["one"]),
        ("write", folders["one"], "--out", folders["two"]),
        ("index", folders["one"], "--out", folders["three"]),
        ("index", f"{folders['one']}/one-{{000000..000000}}.tar", "--out", folders["three"]),
        ("verify", folders["two"]),
        ("stats", folders["three"]),
    ):
        code, said = call(*arguments)
        assert code == 0, said
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(folders)
