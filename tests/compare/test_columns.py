"""Columns that one asks for, and the files that have all numbers."""

import csv
import shutil
from pathlib import Path

import pytest
from support.comparisons import id_of, make, numbers, split

from rwp_dist.base.errors import ConfigError, RwpError
from rwp_dist.compare import compare
from rwp_dist.compare.columns import head_of, number_format
from rwp_dist.compare.estimates import estimate
from rwp_dist.compare.table import latex_text
from rwp_dist.record.directory import RunDir

MEASURED = {
    "sgd": [
        {"ece": 0.0301, "few": 1.0, "flatness.trace": 1200.0},
        {"ece": 0.0353, "few": 1.0, "flatness.trace": 1350.0},
    ],
    "m-rwp": [{"ece": 0.0102}, {"ece": 0.0124}],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    runs = tmp_path / "runs"
    for label, of_seeds in MEASURED.items():
        for seed, found in enumerate(of_seeds):
            make(runs, label, seed, 90.0 + seed, 0.01).write_measurement("a", {"numbers": found})
    return runs


def test_any_number_can_be_a_column(folder: Path, tmp_path: Path) -> None:
    columns = ["few", "ece", "steps", "passes_per_step", "flatness.trace"]
    text = compare([folder], tmp_path, columns=columns)
    groups, names, _, sgd, ours = text.splitlines()[:5]
    assert split(groups)[-2:] == ["passes", "flatness"]
    assert split(names)[-4:] == ["ECE %", "updates", "per update", "trace"]
    assert split(sgd)[-4:] == ["0.0327 ± 0.0037", "100", "1", "1,275 ± 106"]
    assert split(ours)[-4:] == ["0.0113 ± 0.0016", "100", "1 clean + 1 perturbed", "—"]
    assert text.count("Careful") == 1
    assert "Careful: not every run has few, flatness.trace: m-rwp 0 of 2." in text
    found = numbers(tmp_path)["sgd"]["columns"]
    assert found["ece"]["mean"] == pytest.approx(0.0327)
    assert found["passes_per_step"]["n"] == 2


def test_a_mean_over_fewer_runs_than_the_row_has_says_over_how_many(
    folder: Path, tmp_path: Path
) -> None:
    next(folder.glob("sgd*1/measured/a.json")).unlink()
    sgd = compare([folder], tmp_path, columns=["ece"]).splitlines()[3]
    assert split(sgd)[-1].endswith(" (n 1)")


def test_flatness_is_short_for_all_its_columns(folder: Path, tmp_path: Path) -> None:
    head = compare([folder], tmp_path, flatness=True).splitlines()[1]
    assert split(head) == ["method", "top-1 %", "interval", "× SGD", "n", "trace"]
    for run in folder.iterdir():
        shutil.rmtree(run / "measured")
    with pytest.raises(RwpError, match=r"flatness of no run .* `rwp-dist flatness RUN"):
        compare([folder], tmp_path, flatness=True)


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("trace", "did you mean flatness.trace?"),
        ("flatness", "did you mean flatness.trace?"),
        ("train_top", "did you mean train_top1"),
        ("zzz", "known are state, label, "),
        ("weight_noise.0.1.top1", "run `rwp-dist evaluate` first"),
    ],
)
def test_an_unknown_column_is_refused_with_near_ones(
    folder: Path, tmp_path: Path, key: str, near: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        compare([folder], tmp_path / "out", columns=["top1", key])
    assert (refused.value.key, refused.value.problem) == ("--columns", f"no run has a number {key}")
    assert near in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_heads_are_short() -> None:
    assert head_of("bits.4.top1") == ("bits 4", "top-1 %")
    assert head_of("flatness.top_eigenvalue") == ("flatness", "top eigenvalue")
    assert head_of("nll") == ("", "NLL")


@pytest.mark.parametrize(
    ("columns", "texts"),
    [
        ([[0.111, 0.113], [0.2, 0.21]], ["0.1120", "0.2050"]),  # deviations 0.0014, 0.0071
        ([[1234.5], [2.5]], ["1,234.5", "2.5"]),
        ([[100.0, 100.0], [200.0]], ["100", "200"]),
        ([[3e-9, 5e-9]], ["4e-09"]),
    ],
)
def test_a_column_has_as_many_digits_as_its_deviation_allows(
    columns: list[list[float]], texts: list[str]
) -> None:
    found = [one for one in map(estimate, columns) if one]
    assert [number_format(found)(one.mean) for one in found] == texts


def test_csv_has_every_number_of_every_run_in_full(folder: Path, tmp_path: Path) -> None:
    make(folder, 'a "b", c', 0, 100 / 3, 0.01, method="sgd")
    compare([folder], tmp_path)
    with (tmp_path / "compare.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [line["row"] for line in lines] == ["sgd", "sgd", 'a "b", c', "m-rwp", "m-rwp"]
    assert float(lines[2]["top1"]) == 100 / 3
    assert (lines[0]["ece"], lines[2]["ece"], lines[4]["seed"]) == ("0.0301", "", "1")
    assert lines[3]["passes_per_step"] == "1 clean + 1 perturbed"
    assert Path(lines[0]["run"]) == folder / "sgd-0"


def test_latex_has_the_table_with_rules_and_escaped_names(folder: Path, tmp_path: Path) -> None:
    make(folder, r"50 % & $x_1$ #{~}\^", 0, 90.0, 0.01, method="sgd")
    compare([folder], tmp_path, columns=["ece"], baseline="sgd")
    text = (tmp_path / "compare.tex").read_text()
    first, second = text.split("\n\n")
    assert first.splitlines()[1:4] == [
        r"\begin{tabular}{lrrrrr}",
        r"\toprule",
        r"method & test top-1 \% & 95 \% interval & time $\times$ SGD & n & ECE \% \\",
    ]
    assert r"50 \% \& \$x\_1\$ \#\{\textasciitilde{}\}\textbackslash{}\textasciicircum{} &" in text
    assert r"sgd & 90.5 $\pm$ 0.7 & 84.1--96.9 & 1.00 & 2 & 0.0327 $\pm$ 0.0037 \\" in text
    assert second.startswith("% Test top-1 against sgd") and second.count(r"\bottomrule") == 1


def test_latex_text_is_plain_letters() -> None:
    assert latex_text("a_b ± 1 < 2") == r"a\_b $\pm$ 1 \textless{} 2"
    assert latex_text("wants -261ca42a, -1e-3 -5%") == r"wants -261ca42a, $-$1e-3 $-$5\%"
    assert latex_text("-1.5 to -0.5, m-rwp-2") == "$-$1.5 to $-$0.5, m-rwp-2"


def test_what_was_measured_on_other_data_or_settings_is_left_out_and_named(
    folder: Path, tmp_path: Path
) -> None:
    own = id_of("data/digits/test")
    for run, subject in (
        ("sgd-0", {"data": own + "0" * 48}),
        ("sgd-1", {"data": "f" * 64}),
        ("m-rwp-0", {"data": own, "data.eval_crop_ratio": "1.0"}),
    ):
        measured = {"subject": {"checkpoint": "a", "crc32": "b"} | subject}
        RunDir(folder / run).write_measurement("b", measured | {"numbers": {"ece": 0.5}})
    text = compare([folder], tmp_path, columns=["ece"])
    assert "with other data or settings than their own; these numbers are left out: " in text
    assert "left out: sgd, m-rwp." in text
    rows = numbers(tmp_path)
    assert rows["sgd"]["columns"]["ece"]["mean"] == pytest.approx((0.5 + 0.0353) / 2)
    assert rows["m-rwp"]["columns"]["ece"]["mean"] == pytest.approx(0.0113)


def test_numbers_on_another_data_set_that_was_asked_for_have_its_name(
    folder: Path, tmp_path: Path
) -> None:
    for seed in (0, 1):
        subject = {"checkpoint": "a", "crc32": "b", "data": "f" * 64, "other_data": "a@123456"}
        measured = {"subject": subject, "numbers": {"a@123456.top1": 10.0 + seed}}
        RunDir(folder / f"sgd-{seed}").write_measurement("evaluation-a@123456", measured)
    text = compare([folder], tmp_path, columns=["a@123456.top1"])
    assert "left out" not in text
    assert split(text.splitlines()[0])[-1] == "a@123456"
    assert split(text.splitlines()[3])[-1] == "10.50 ± 0.71"
    with pytest.raises(ConfigError, match=r"did you mean .*a@123456.top1"):
        compare([folder], tmp_path, columns=["a.top1"])
