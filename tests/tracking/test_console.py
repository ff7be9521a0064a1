import io
import sys

import pytest

from rwp_dist.tracking.console import Console, count, duration, eval_line, size, train_line

TRAIN = {
    "step": 50, "total_steps": 12500, "epoch": 1.25, "loss": 2.30259, "top1": 11.2, "lr": 0.1,
    "sigma": 0.01, "step_s": 0.04, "images_per_s": 12345.6, "data_wait_s": 0.0001,
    "data_wait_share": 0.0025, "perturb_s": 0.00046, "perturb_share": 0.0115,
    "memory_bytes": 3_400_000_000, "skipped_steps": 0, "adaptation": None, "eta_s": 700.0,
}  # fmt: skip
EVAL = {"step": 50, "epoch": 1.25, "loss": 1.5, "top1": 71.234, "top5": 99.0, "num_samples": 797}


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
        "step     50/12,500  epoch   1.25  loss  2.3026  top-1  11.2 %  12,346 images/s"
        "  data wait  0.2 %  perturb  460 µs (1.1 %)   3.4 GB  left 12 min"
    )


def test_lines_of_a_run_are_aligned() -> None:
    later = TRAIN | {"step": 12500, "loss": 12.5, "top1": 100.0, "perturb_s": 0.0125}
    assert train_line(TRAIN).index("images/s") == train_line(later).index("images/s")
    assert train_line(TRAIN).index("GB") == train_line(later).index("GB")


def test_a_line_says_what_is_special() -> None:
    line = train_line(
        TRAIN | {"skipped_steps": 3, "adaptation": 1.0421, "top1": None, "loss": float("nan")}
    )
    assert "3 skipped" in line
    assert "adapt ×1.042" in line
    assert "top-1" not in line
    assert "loss     nan" in line


def test_eval_line() -> None:
    assert eval_line(EVAL) == (
        "evaluated at step 50 (epoch 1.25):"
        "  top-1 71.23 %  top-5 99.00 %  loss 1.5000  (797 images)"
    )


def test_without_a_terminal_there_are_lines_and_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(total_steps=12500, first_step=0)
    console.advance(49)
    console.train(TRAIN)
    console.eval(EVAL)
    console.close()
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
    console.train(TRAIN | {"total_steps": 100})
    console.eval(EVAL)
    console.close()
    assert out.getvalue() == f"{eval_line(EVAL)}\n"
    assert "50/100" in err.getvalue()
    assert "loss 2.303, top-1 11.2 %" in err.getvalue()
