"""A start that takes long says what it is doing."""

import io
import threading
from contextlib import redirect_stdout

import pytest

from rwp_dist.process import stages
from rwp_dist.process.progress import progress_bar


def test_a_stage_that_takes_long_says_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stages, "PATIENCE_S", 0.01)
    said = threading.Event()

    def say(*args: str, **options: bool) -> None:
        print(*args, **options)
        said.set()

    monkeypatch.setattr(stages, "print", say, raising=False)
    with stages.stage("loading torch"):
        assert said.wait(10)
    assert capsys.readouterr().out == "loading torch ...\n"


def test_a_block_that_hides_what_libraries_print_does_not_hide_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stages, "PATIENCE_S", 0.01)
    with stages.stage("starting"), redirect_stdout(io.StringIO()):
        for timer in threading.enumerate():
            if isinstance(timer, threading.Timer):
                timer.join(10)
    assert capsys.readouterr().out == "starting ...\n"


def test_a_short_stage_and_other_ranks_say_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with stages.stage("short"):
        pass
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(stages.threading, "Timer", None)  # nothing is started on other ranks
    with stages.stage("on rank 1"):
        pass
    assert capsys.readouterr().out == ""


def test_a_stage_that_always_takes_long_is_named_before_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with stages.stage("loading torch", at_once=True):
        assert capsys.readouterr().out == "loading torch ...\n"


def test_what_is_loaded_already_is_not_said(capsys: pytest.CaptureFixture[str]) -> None:
    import torch  # noqa: F401 - another test may not have

    with stages.loading():
        assert capsys.readouterr().out == ""


def test_until_a_progress_bar_knows_what_there_is_to_do_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def timers() -> list[threading.Timer]:
        return [t for t in threading.enumerate() if isinstance(t, threading.Timer)]

    monkeypatch.setattr(stages, "PATIENCE_S", 0.01)
    with progress_bar("img"):
        for timer in timers():
            timer.join(10)
        assert capsys.readouterr().err == "getting ready ...\n"
    monkeypatch.setattr(stages, "PATIENCE_S", 60)
    with progress_bar("img") as progress:
        progress(1, 2)
        assert all(timer.finished.is_set() for timer in timers())
