"""C files are compiled once, by the first process, and never taken from under another machine."""

from pathlib import Path

import pytest

from rwp_dist.base.compiled import CLibrary, _publish
from rwp_dist.base.errors import ConfigError


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "answer.c"
    path.write_text("int answer(void) { return 42; }")
    return path


def library(source: Path, *, native: bool = False) -> CLibrary:
    return CLibrary("some.key", "fast", "leave it", "mend it", (source,), native=native)


def test_a_changed_file_or_another_processor_is_compiled_anew(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def libraries() -> int:
        return len(list((tmp_path / "cache/rwp-dist/compiled").iterdir()))

    assert library(source).load().answer() == library(source).load().answer() == 42
    assert libraries() == 1
    source.write_text("int answer(void) { return 43; }")
    assert library(source).load().answer() == 43
    assert library(source, native=True).load().answer() == 43
    assert libraries() == 3
    monkeypatch.setattr("rwp_dist.base.compiled._processor", lambda: "flags: another")
    library(source, native=True).load()
    assert libraries() == 4


def test_a_library_that_does_not_load_is_replaced(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "cache/rwp-dist/compiled" / f"answer-{library(source)._digest()}.so"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no library")
    assert library(source).load().answer() == 42
    assert path.read_bytes() != b"no library"


@pytest.mark.parametrize(
    ("compiler", "problem", "cure"),
    [
        ("no-such-compiler", "there is no 'no-such-compiler'", "install a C compiler, or leave it"),
        ("cc --no-such-option", "no-such-option", "mend it, or leave it"),
    ],
)
def test_without_a_compiler_the_error_has_a_cure(
    source: Path, monkeypatch: pytest.MonkeyPatch, compiler: str, problem: str, cure: str
) -> None:
    monkeypatch.setenv("CC", compiler)
    with pytest.raises(ConfigError) as refused:
        library(source).load()
    assert (refused.value.key, refused.value.cure) == ("some.key", cure)
    assert problem in refused.value.problem


def test_without_a_place_the_error_has_a_cure(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(source))  # a file
    with pytest.raises(ConfigError) as refused:
        library(source).load()
    assert "XDG_CACHE_HOME" in refused.value.cure


def test_the_first_process_wins_a_race(tmp_path: Path) -> None:
    first, path = tmp_path / "first.so", tmp_path / "library.so"
    first.write_text("first")
    _publish(first, path, replace=False)
    number = path.stat().st_ino
    second = tmp_path / "second.so"
    second.write_text("second")
    _publish(second, path, replace=False)
    assert (path.read_text(), path.stat().st_ino) == ("first", number)
    _publish(second, path, replace=True)
    assert path.read_text() == "second"


def test_a_file_system_without_links_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*names: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr("os.link", refuse)
    temporary = tmp_path / "temporary.so"
    temporary.write_text("content")
    _publish(temporary, tmp_path / "library.so", replace=False)
    assert (tmp_path / "library.so").read_text() == "content"
