"""C files are compiled once, by the first process, and never taken from under another machine."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from support.until import until, until_ended

from rwp_dist.base import compiled
from rwp_dist.base.compiled import CLibrary, _publish
from rwp_dist.base.errors import ConfigError


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(compiled, "_too_slow", set())
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
        ("'cc", "CC='cc is no command", "set CC to another C compiler, or leave it"),
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


def test_without_a_place_it_is_compiled_for_now_or_the_error_has_a_cure(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(source))  # a file
    assert library(source).load().answer() == 42
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nothing"))
    with pytest.raises(ConfigError) as refused:
        library(source).load()
    assert refused.value.cure and "XDG_CACHE_HOME" in refused.value.cure


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


def test_another_environment_has_a_library_of_its_own(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = library(source)._digest()
    monkeypatch.setattr("sys.prefix", "/another/environment")
    assert library(source)._digest() != here


def test_a_user_without_a_home_compiles_for_now(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(path: str) -> str:
        raise ValueError("~ has no home folder here")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(compiled, "expand_home", unknown)
    assert compiled.compiled_folder() is None
    assert library(source).load().answer() == 42


def mounted(folder: Path, options: str) -> bool:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return os.geteuid() == 0 and subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.parametrize("options", ["noexec", "size=4k,noexec", "ro"])
def test_a_cache_that_may_not_execute_is_full_or_read_only_will_do(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    folder = tmp_path / "disk"
    if not mounted(folder, options):
        pytest.skip("only root can mount a disk")
    try:
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
        assert library(source).load().answer() == 42
        other = source.with_name("other.c")
        other.write_text("int other(void) { return 7; }")
        assert library(other).load().other() == 7, "not the first one again"
        assert library(source).load().answer() == 42
        kept = list(folder.rglob("*.so"))
        assert len(kept) == (2 if options == "noexec" else 0)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def compiler(folder: Path, script: str) -> str:
    """A compiler whose parts take long, as those of a large file do."""
    path = folder / "slow-cc"
    path.write_text(f"#!/bin/sh\necho $$ >> {folder}/pids\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_the_time_of_a_compiler_and_its_parts_is_bounded(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", compiler(tmp_path, f"sleep 60 & echo $! >> {tmp_path}/pids; wait"))
    monkeypatch.setattr(compiled, "COMPILE_S", 0.3)
    with pytest.raises(ConfigError, match=r"took more than 0 s.*leave it"):
        library(source).load()
    until_ended(list(map(int, (tmp_path / "pids").read_text().split())))


def test_a_compiler_that_took_too_long_is_not_started_again(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CC", compiler(tmp_path, "exec sleep 60"))
    monkeypatch.setattr(compiled, "COMPILE_S", 0.3)
    other = source.with_name("other.c")
    other.write_text("int other(void) { return 7; }")
    for late in (source, other):
        with pytest.raises(ConfigError, match=r"took more than 0 s.*set CC to another"):
            library(late).load()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("compiling answer.c: no end after 0 s") and "not started again" in line
    monkeypatch.delenv("CC")
    monkeypatch.setattr(compiled, "COMPILE_S", 60)
    assert library(other).load().other() == 7, "another compiler is"


def test_what_killed_compilers_left_is_removed_and_what_another_is_using_is_not(
    source: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "cache/rwp-dist/compiled"
    for name in ("tmpleft", "tmpused"):
        (kept / name).mkdir(parents=True)
        (kept / name / "cc.s").touch()
    hours_ago = time.time() - 2 * compiled.LEFT_S
    os.utime(kept / "tmpleft", (hours_ago, hours_ago))
    library(source).load()
    assert [path.name for path in kept.glob("tmp*")] == ["tmpused"]


LOADING = """
import sys
from pathlib import Path
from rwp_dist.base.compiled import CLibrary
print(CLibrary("some.key", "fast", "leave it", "mend it", (Path(sys.argv[1]),)).load().answer())
"""


def loading(source: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", LOADING, str(source)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_compiler_and_its_parts_end_with_the_process_that_asked(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setenv("CC", compiler(tmp_path, f"sleep 60 & echo $! >> {tmp_path}/pids; wait"))
    asker, pids = loading(source), tmp_path / "pids"

    def begun() -> list[int]:
        return [int(line) for line in pids.read_text().split()] if pids.exists() else []

    until(lambda: len(begun()) == 2, "the compiler and its part")
    assert all(map(psutil.pid_exists, begun()))
    asker.send_signal(number)
    asker.communicate()
    until_ended(begun())


def test_of_many_processes_one_compiles_and_says_so(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", compiler(tmp_path, 'sleep 0.5; exec cc "$@"'))
    ends = [(p.communicate(), p.returncode) for p in [loading(source) for _ in range(4)]]
    assert [out for (out, _), _ in ends] == ["42\n"] * 4
    (said,) = [err for (_, err), _ in ends if err]
    assert said.startswith("compiling answer.c: ") and said.endswith(" s\n")
    assert len((tmp_path / "pids").read_text().split()) == 1


def test_it_does_not_wait_for_ever_for_another_that_compiles(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with compiled._turn():
        monkeypatch.setattr(compiled, "COMPILE_S", 0.1)
        begin = time.monotonic()
        with compiled._turn():
            assert 0.1 <= time.monotonic() - begin < 5
