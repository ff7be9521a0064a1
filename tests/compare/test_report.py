"""The report as a file: what is on it, and what is not."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from support.comparisons import EVIL, configure, make

from rwp_dist.compare import compare
from rwp_dist.compare.pictures import metadata_of
from rwp_dist.compare.report import command, natural
from rwp_dist.record.directory import RunDir

ENVIRONMENT = {
    "argv": ["/somewhere/rwp_dist/__main__.py", "sweep", "my.yaml", "--dir", "runs/a b"],
    "world_size": 2,
    "python": "3.11.7",
    "gpus": ["H200", "H200"],
    "packages": {"torch": "2.15.0", "wandb": None},
    "git": {"commit": "c0ffee", "dirty": True},
}


def text_of(html: str) -> str:
    """What a reader sees, with its spaces made one."""
    parts: list[str] = []
    parser = HTMLParser()
    parser.handle_data = parts.append  # type: ignore[method-assign]
    parser.feed(re.sub(r"<style>.*?</style>|<script>.*?</script>", "", html, flags=re.S))
    return re.sub(r"\s+", " ", " ".join(parts))


def page(folder: Path, out: Path, **more: object) -> str:
    compare([folder], out, html=True, **more)  # type: ignore[arg-type]
    return (out / "compare.html").read_text(encoding="utf-8")


def run_with(folder: Path, label: str, seed: int, *settings: str) -> RunDir:
    run = make(folder, label, seed, 90.0 + seed, 0.01)
    configure(run, f"run.seed={seed}", f"method.name={label}", *settings)
    run.write_environment(ENVIRONMENT)
    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    runs = tmp_path / "runs"
    for seed in (0, 1):
        run_with(runs, "sgd", seed)
        run = run_with(runs, "m-rwp", seed, "method.sigma=0.6")
        found = {"flatness.trace": 12.5 + seed, "weight_noise.0.01.top1": 80.0, "ece": 1.5}
        run.write_measurement("some", {"numbers": found})
    return runs


def test_the_report_has_everything(folder: Path, tmp_path: Path) -> None:
    html = page(folder, tmp_path, baseline="sgd")
    text = text_of(html)
    for part in (
        "4 runs; 2 ranks on cpu, model small_cnn.",
        "90.5 ± 0.7",
        "Test top-1 against sgd, paired by seed",
        "trace — 13.00 ± 0.71",
        "weight noise 0.01 top-1 % — 80",
        "ECE % — 1.500",
        "method.sigma 0 0.6",
        "commit c0ffee",
        "GPUs 2 × H200",
        "torch 2.15.0",
        "git checkout c0ffee torchrun --nproc-per-node 2 -m rwp_dist sweep my.yaml",
        "--dir 'runs/a b'",
        "Time × SGD: seconds of training",
    ):
        assert part in text, part
    assert text.count("git checkout") == 1
    assert html.count("<img ") == 2


def test_it_needs_nothing_from_elsewhere_and_is_small(folder: Path, tmp_path: Path) -> None:
    html = page(folder, tmp_path)
    places = re.findall(r"""(?:src|href|action|url)\s*[=(]\s*["']?([^"'\s)>]{0,20})""", html)
    assert places and all(place.startswith("data:") for place in places)
    assert "@import" not in html and "http" not in html.replace("http-equiv", "")
    assert len(html) < 2_000_000


def test_what_comes_from_runs_is_escaped(folder: Path, tmp_path: Path) -> None:
    run = make(folder, "rwp", 7, 90.0, 0.01)
    run.write_summary((run.read_summary() or {}) | dict.fromkeys(("label", "model", "seed"), EVIL))
    configure(run, "run.seed=7", "method.name=rwp", f"data.train={EVIL}")
    git = {"commit": EVIL, "dirty": False}
    run.write_environment(
        ENVIRONMENT | {"git": git, "argv": [EVIL], "python": EVIL, "gpus": [EVIL]}
    )
    run.write_measurement("evil", {"numbers": {EVIL: 1.0}})
    save(tmp_path / "flatness<script>.png", 10, folder / "rwp-7")
    html = page(folder, tmp_path)
    assert html.count("<script") == 1 and html.count("<img ") == 3
    assert "alert(1)" in html and "<script>alert" not in html and "<img src=x" not in html


def save(path: Path, width: int, *runs: Path, text: str | None = None) -> None:
    noise = np.random.default_rng(len(str(path))).integers(0, 256, (width, width, 3), "uint8")
    info = PngImagePlugin.PngInfo()
    for key, own in metadata_of(runs, path.parent).items():
        info.add_text(key, own if text is None else text)
    Image.fromarray(noise).save(path, pnginfo=info)


def test_pictures_of_these_runs_and_no_others_are_shown_as_far_as_there_is_room(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rwp_dist.compare.pictures.MOST_BYTES", 100_000)
    runs = sorted(path for path in folder.iterdir())
    for number in range(6):  # each is some 30 kB
        save(tmp_path / f"flatness-large-{number}.png", 150, runs[number % 4])
    save(tmp_path / "flatness-small.png", 20, *runs)
    save(tmp_path / "flatness-other.png", 20, runs[0], tmp_path / "other" / "sgd-0")
    save(tmp_path / "flatness-unknown.png", 20)
    save(tmp_path / "flatness-foreign.png", 20, text="3")
    (tmp_path / "flatness-torn.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    text = text_of(page(folder, tmp_path))
    shown, _, left_out = text.partition("Not shown here: ")
    assert "flatness-small.png" in shown and "flatness-large-1.png" in shown
    assert "flatness-large-5.png" in left_out and "small" not in left_out
    assert not any(name in text for name in ("other.png", "unknown.png", "foreign.png", "torn.png"))


def test_passwords_stay_in_the_run_directory(folder: Path, tmp_path: Path) -> None:
    url = "https://me:secret@host/train?signature=secret"
    run = run_with(folder, "rwp", 0, f"data.train={url}")
    argv = ["rwp-dist", "train", "my.yaml", f"data.train={url}", f"--grid=data.val={url},{url}"]
    run.write_environment(ENVIRONMENT | {"argv": argv, "world_size": 1})
    html = page(folder, tmp_path)
    assert "rwp-dist train my.yaml data.train=https://host/train" in html
    assert "secret" not in html and "secret" not in (tmp_path / "compare.md").read_text()


def test_numbers_of_runs_and_settings_are_sorted_as_numbers(folder: Path, tmp_path: Path) -> None:
    make(folder, "rwp", 0, 90.0, 0.01, samples=12345)
    html = page(folder, tmp_path)
    assert '<td data-value="12345.0">12,345</td>' in html
    assert '<td data-value="0.6">0.6</td>' in html


def test_what_only_some_runs_know_of_their_environment_is_not_said_of_all(
    folder: Path, tmp_path: Path
) -> None:
    make(folder, "rwp", 0, 90.0, 0.01)
    assert "Python 3.11.7 (4 of 5 runs)" in text_of(page(folder, tmp_path))


def test_a_run_without_an_environment_is_said_to_have_none(tmp_path: Path) -> None:
    make(tmp_path / "runs", "sgd", 0, 90.0, 0.01)
    text = text_of(page(tmp_path / "runs", tmp_path / "out"))
    assert re.search(r"# unknown: \S+ has no environment.json", text)
    assert "None but the seed." in text


def test_a_run_of_version_0_1_is_reported(tmp_path: Path) -> None:
    old = Path(__file__).parents[1] / "fixtures" / "written_by_0_1" / "run"
    assert "Comparison of" in text_of(page(old, tmp_path))


def test_a_command_of_ones_own_stays_as_it_was() -> None:
    assert command({"argv": ["my train.py", "--fast"]}) == "python 'my train.py' --fast"
    assert command({"argv": ["/bin/rwp-dist", "train", "a.yaml"]}) == "rwp-dist train a.yaml"
    assert command({}) is None


def test_numbers_in_keys_are_sorted_as_numbers() -> None:
    keys = ["bits.8.top1", "bits.10.top1", "weight_noise.0.02.nll", "weight_noise.0.005.nll", "ece"]
    assert sorted(keys, key=natural) == [
        "bits.8.top1", "bits.10.top1", "ece", "weight_noise.0.005.nll", "weight_noise.0.02.nll",
    ]  # fmt: skip
