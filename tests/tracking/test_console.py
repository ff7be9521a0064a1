import io
import sys

import pytest

from rwp_dist.tracking.console import (
    Console,
    count,
    duration,
    eval_line,
    loss_text,
    size,
    train_line,
    train_postfix,
)

TRAIN = {
    "step": 50, "total_steps": 12500, "epoch": 1.25, "loss": 2.30259, "top1": 11.2, "lr": 0.1,
    "sigma": 0.01, "step_s": 0.04, "images_per_s": 12345.6, "data_wait_s": 0.0001,
    "data_wait_share": 0.0025, "perturb_s": 0.00046, "perturb_share": 0.0115,
    "memory_bytes": 3_400_000_000, "skipped_steps": 0, "adaptation": None, "eta_s": 700.0,
}  # fmt: skip
EVAL = {"step": 50, "epoch": 1.25, "loss": 1.5, "top1": 71.234, "top5": 99.0, "num_samples": 797,
        "bad_samples": 0}  # fmt: skip


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.6e-4, "460 µs"), (0.0042, "4.2 ms"), (0.0999, "100 ms"), (0.9996, "1.0 s"), (12.4, "12 s"),
     (700, "12 min"), (3 * 3600 + 5 * 60, "3 h 05 min"), (86400 * 2.5, "2 d 12 h"), (None, "—")],
)  # fmt: skip
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_units() -> None:
    assert size(3_400_000_000) == "3.4 GB"
    assert size(812_345_678) == "812 MB"
    assert count(12345.6) == "12,346"
    assert count(7.31) == "7.3"


def test_train_line() -> None:
    assert train_line(TRAIN) == (
        "step     50/12,500  epoch   1.25  loss   2.3026  top-1  11.2 %  12,346 images/s"
        "  data wait  0.2 %  perturb  460 µs (1.1 %)   3.4 GB  left 12 min"
    )


def test_lines_of_a_run_are_aligned() -> None:
    later = TRAIN | {"step": 12500, "loss": 1.8e16, "top1": 100.0, "perturb_s": 0.0125}
    assert train_line(TRAIN).index("images/s") == train_line(later).index("images/s")
    assert train_line(TRAIN).index("GB") == train_line(later).index("GB")


def test_a_line_says_what_is_special() -> None:
    line = train_line(
        TRAIN | {"skipped_steps": 3, "adaptation": 1.0421, "top1": None, "loss": float("nan")}
    )
    assert "3 skipped" in line
    assert "adapt ×1.042" in line
    assert "top-1" not in line
    assert "loss      nan" in line


def test_what_is_zero_is_left_out() -> None:
    line = train_line(TRAIN | {"perturb_s": 0.0, "perturb_share": 0.0, "eta_s": 0.0})
    assert line.endswith("data wait  0.2 %   3.4 GB")


def test_a_line_tells_of_the_data_where_there_is_something_to_tell() -> None:
    assert "cache" not in train_line(TRAIN | {"cache_hits": None, "bad_samples": 0})
    line = train_line(TRAIN | {"bytes_per_s": 123_400_000.0, "cache_hits": 0.0, "bad_samples": 1})
    assert "  123 MB/s  cache hits   0.0 %  perturb" in line
    assert "  1 bad sample  left" in line


@pytest.mark.parametrize(
    ("loss", "text"),
    [(2.30259, "2.3026"), (-1.5, "-1.5000"), (120.5, "120.50"), (9999.0, "9999.00"),
     (1.8e16, "1.80e+16"), (float("inf"), "inf"), (None, "—")],
)  # fmt: skip
def test_loss(loss: float | None, text: str) -> None:
    assert loss_text(loss) == text


def test_eval_line() -> None:
    assert eval_line(EVAL) == "eval at step 50:  top-1 71.23 %  top-5 99.00 %  loss 1.5000"
    assert eval_line(EVAL | {"bad_samples": 2}).endswith("  loss 1.5000  2 bad samples")


def test_beside_the_bar_stands_what_fits() -> None:
    parts = ["loss 2.303", "2 skipped", "top-1 11.2 %", "12,346 img/s", "wait 0.2 %",
             "perturb 1.1 %", "3.4 GB"]  # fmt: skip
    record = TRAIN | {"skipped_steps": 2}
    assert train_postfix(record, 200) == ", ".join(parts)
    for room in range(12, 90):
        text = train_postfix(record, room)
        assert len(text) + 2 <= room
        assert ", ".join(parts).startswith(text)


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


def test_without_a_terminal_there_are_lines_and_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(total_steps=12500)
    console.advance(49)
    console.log("train", TRAIN)
    console.log("eval", EVAL)
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
