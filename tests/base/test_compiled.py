"""C files are compiled once, by whoever comes first, and never taken away from a machine."""

from pathlib import Path

import pytest

from rwp_dist.base.compiled import Program, _publish


@pytest.fixture
def program(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = tmp_path / "answer.c"
    source.write_text("int answer(void) { return 42; }")
    return Program("some.setting=c", "leave it", "some.setting: ({})", (source,))


def libraries(tmp_path):
    return sorted((tmp_path / "cache/rwp-dist/compiled").iterdir())


def test_a_changed_file_other_options_or_another_processor_is_compiled_anew(
    program, tmp_path, monkeypatch
):
    assert program.load().answer() == program.load().answer() == 42
    assert len(libraries(tmp_path)) == 1
    program.files[0].write_text("int answer(void) { return 43; }")
    assert program.load().answer() == 43
    native = Program(*(program.setting, program.instead, program.lacks, program.files), native=True)
    assert native.load().answer() == 43
    monkeypatch.setattr("rwp_dist.base.compiled._processor", lambda: "flags: another")
    native.load()
    assert len(libraries(tmp_path)) == 4


def test_who_is_late_leaves_the_library_of_who_was_first(tmp_path):
    made, path = tmp_path / "made.so", tmp_path / "library.so"
    made.write_text("first")
    _publish(made, path, replacing=False)
    number = path.stat().st_ino
    late = tmp_path / "late.so"
    late.write_text("second")
    _publish(late, path, replacing=False)
    assert (path.read_text(), path.stat().st_ino) == ("first", number)
    _publish(late, path, replacing=True)  # what does not load is replaced
    assert path.read_text() == "second"


def test_a_filesystem_without_links_will_do(tmp_path, monkeypatch):
    def refuse(*names):
        raise PermissionError("no links here")

    monkeypatch.setattr("os.link", refuse)
    made = tmp_path / "made.so"
    made.write_text("made")
    _publish(made, tmp_path / "library.so", replacing=False)
    assert Path(tmp_path / "library.so").read_text() == "made"
