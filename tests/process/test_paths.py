"""Paths on the command lines of ``rwp-dist``, ``rwp-dist shards`` and ``rwp-launch``."""

from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from launcher.attempt import main as attempt
from launcher.cli import main as launch
from rwp_dist.cli import main as dist
from rwp_dist.process.commands import Commands
from rwp_dist.process.paths import PATH, PLACE


def commands(group: click.Command, name: str = "") -> Iterator[tuple[str, click.Command]]:
    if not isinstance(group, click.Group):
        yield name, group
        return
    for word, command in group.commands.items():
        yield from commands(command, f"{name} {word}")


def converted(word: str, monkeypatch: pytest.MonkeyPatch, kind: click.ParamType) -> str:
    monkeypatch.setenv("HOME", "/home/me")
    found = kind.convert(word, None, None)
    assert isinstance(found, Path if kind is PATH else str)
    return str(found)


@pytest.mark.parametrize("kind", [PATH, PLACE])
def test_the_home_folder_is_expanded_only_where_a_path_begins(
    kind: click.ParamType, monkeypatch: pytest.MonkeyPatch
) -> None:
    for word, meant in (("~/x", "/home/me/x"), ("~", "/home/me"), ("./~", None), ("a~b", None)):
        got = converted(word, monkeypatch, kind)
        assert got == (meant or str(Path(word)) if kind is PATH else meant or word)


def test_other_text_than_a_path_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for word in ("s3://b/~x", "data.val=~/x", "docker://a/b:1", "in-{0..3}.tar"):
        assert converted(word, monkeypatch, PLACE) == word


def test_an_unknown_user_is_one_sentence_with_the_option() -> None:
    group = Commands()

    @group.command("do")
    @click.option("--out", type=PATH)
    def do(out: Path) -> None:
        raise AssertionError(out)

    result = CliRunner().invoke(group, ["do", "--out=~nobody-here/x"])
    assert result.exit_code == 2
    assert result.output == ("--out: ~nobody-here has no home folder here; write the whole path.\n")


@pytest.mark.parametrize("group", [dist, launch, attempt])
def test_every_path_of_every_command_knows_the_home_folder(group: click.Group) -> None:
    for name, command in commands(group):
        for param in command.params:
            assert type(param.type) is not click.Path, (name, param.name)


def test_shards_are_written_into_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(dist, ["shards", "verify", "~/nothing-there"])
    assert f"{tmp_path}/nothing-there" in result.output and "~" not in result.output
