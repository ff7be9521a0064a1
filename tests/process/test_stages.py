"""A start that takes long says what it is doing."""

import io
import threading
from contextlib import redirect_stdout

import pytest

from rwp_dist.process import stages


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
    monkeypatch.setattr(stages.threading, "Timer", None)  # nothing is started on other ranks
    with stages.stage("on rank 1"):
        pass
    assert capsys.readouterr().out == ""
