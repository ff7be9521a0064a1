import io
import sys

import pytest
from tracking.test_lines import EVAL, TRAIN

from rwp_dist.tracking.console import Console
from rwp_dist.tracking.lines import eval_line, train_line


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", [80, 100, 160])
def test_the_bar_keeps_its_room(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    err = Terminal()
    monkeypatch.setattr(sys, "stderr", err)
    console = Console(total_steps=12500, first_step=0, title="a run with a rather long name")
    assert console._bar is not None
    monkeypatch.setattr(console._bar, "dynamic_ncols", lambda _: (columns, 24))
    console.log("train", TRAIN)
    console._bar.refresh()
    last = err.getvalue().rpartition("\r")[2]
    console.close("finished")
    assert len(last) <= columns
    bar = last.partition("|")[2].partition("|")[0]
    assert len(bar) >= 8
    assert last.startswith("a run with a rather…: ")
    assert last.endswith("]")
    assert ("wait 0.2 %, perturb 1.1 %, 3.4 GB" in last) == (columns == 160)


def test_the_last_line_is_one_line_whatever_the_folder_is_called(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console = Console(total_steps=1, folder="a\nb\udcff")
    console.summarize({"label": "rwp", "top1": 50.0, "steps": 1, "train_s": 1.0})
    assert capsys.readouterr().out.endswith("; all of it is in a\\nb\\udcff\n")


def test_without_a_terminal_there_are_lines_and_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(total_steps=12500)
    console.advance(49)
    console.log("train", TRAIN)
    console.log("eval", EVAL)
    console.log("checkpoint", {"step": 50, "save_s": 0.5, "bytes": 1000})
    console.close("finished")
    out, err = capsys.readouterr()
    assert out == f"{train_line(TRAIN)}\n{eval_line(EVAL)}\n"
    assert err == ""


def test_on_a_terminal_there_is_a_bar_and_lines_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    err, out = Terminal(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setattr(sys, "stdout", out)
    console = Console(total_steps=100, first_step=40, title="run")
    for step in range(41, 51):
        console.advance(step)
    console.log("train", TRAIN | {"total_steps": 100})
    console.log("eval", EVAL)
    console.close("finished")
    assert err.getvalue().endswith("\r")
    assert err.getvalue().split("\r")[-2].strip() == ""  # taken away, not drawn again
    assert out.getvalue() == f"{eval_line(EVAL)}\n"
    assert "50/100" in err.getvalue()
    assert "loss 2.303, top-1 11.2 %" in err.getvalue()
