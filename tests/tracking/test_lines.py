import pytest

from rwp_dist.tracking.lines import eval_line, loss_text, train_line, train_postfix

TRAIN = {
    "step": 50, "total_steps": 12500, "epoch": 1.25, "loss": 2.30259, "top1": 11.2, "lr": 0.1,
    "sigma": 0.01, "step_s": 0.04, "images_per_s": 12345.6, "data_wait_s": 0.0001,
    "data_wait_share": 0.0025, "perturb_s": 0.00046, "perturb_share": 0.0115,
    "memory_bytes": 3_400_000_000, "skipped_steps": 0, "adaptation": None, "eta_s": 700.0,
}  # fmt: skip
EVAL = {"step": 50, "epoch": 1.25, "loss": 1.5, "top1": 71.234, "top5": 99.0, "num_samples": 797,
        "bad_samples": 0}  # fmt: skip


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
