"""``rwp-dist predict``: what an evaluation would say of the same images, a line for each."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from support.evaluations import untrained_run, write_checkpoint
from support.stream_sets import CLASSES, read_source, write_set

from rwp_dist.cli import main
from rwp_dist.config import load_settings
from rwp_dist.data.open import open_eval
from rwp_dist.run.evaluate import load_network
from rwp_dist.shards.samples import Source

NUM = 11
NAMES = ("ant", "bee", "Kuh", "犬", "elk")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Shards and, in ``images``, the files of the same images in folders."""
    folder = tmp_path_factory.mktemp("images")
    write_set(folder / "val", num=NUM)
    for number in range(NUM):
        path = folder / "images" / str(number % 2) / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(read_source(Source(path.name, "jpg", 0, "", number)))
    (folder / "images" / "notes.txt").write_text("no image")
    (folder / "images" / ".hidden.jpg").write_text("no image")
    return folder


@pytest.fixture
def run(folder, tmp_path):
    run = untrained_run(tmp_path / "run", folder / "val", "batch.per_rank=4")
    write_checkpoint(run, load_settings(run.config), parts=parts())
    return run


def parts():
    return {"history": {"classes": {"num": CLASSES, "names": NAMES, "place": "train"}}}


def invoke(*arguments):
    return CliRunner().invoke(main, ["predict", *map(str, arguments)])


def predicted(*arguments):
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def logits_by_name(run, *overrides):
    """What an evaluation computes of each image, by the number in its file's name."""
    import re
    import tarfile

    settings = load_settings(run.config, overrides)
    names = []
    for path in sorted((run.path.parent / settings.data.val).glob("*.tar")):
        with tarfile.open(path) as tar:
            names += [re.findall(r"_(\d+)\.jpg$", n)[0] for n in tar.getnames() if "jpg" in n]
    model = load_network(settings, run.newest_checkpoint(), torch.device("cpu")).eval()
    logits = []
    for step in open_eval(settings, 0, 1).steps():
        [batch] = step.batches
        with torch.no_grad():
            logits.append(model((batch.images / 255 - 0.5) / 0.25))
    return dict(zip(names, torch.cat(logits), strict=False))


@pytest.mark.parametrize("workers", [0, 2])
def test_predictions_are_those_of_the_evaluation(workers, run, folder):
    expected = logits_by_name(run, "data.eval_crop_ratio=0.7")
    lines = predicted(
        run.path, folder / "images", "data.eval_crop_ratio=0.7", f"data.workers={workers}"
    )
    assert len(lines) == NUM
    for line in lines:
        shares = expected[Path(line["path"]).name[:4]].softmax(0)
        for found, probability, index in zip(line["top"], *shares.topk(5), strict=True):
            assert found["probability"] == pytest.approx(probability.item(), abs=1e-6)
            assert (found["class"], found["index"]) == (NAMES[index], index.item())


def test_files_folders_and_patterns_keep_their_order(run, folder):
    images = folder / "images"
    odd, even = ([f"{n:04d}.jpg" for n in range(start, NUM, 2)] for start in (1, 0))
    words = (images / "1" / "0003.jpg", images / "0", f"{images}/*/000[57].jpg")
    names = [Path(line["path"]).name for line in predicted(run.path, *words)]
    assert names == ["0003.jpg", *even, "0005.jpg", "0007.jpg"]
    assert [line["path"] for line in predicted(run.path, images)] == [
        *(str(images / "0" / name) for name in even),
        *(str(images / "1" / name) for name in odd),
    ]


def test_an_image_that_cannot_be_read_has_an_error_in_its_line_and_the_exit_code_says_so(
    run, folder, tmp_path
):
    good = folder / "images" / "0" / "0000.jpg"
    text, empty, cut = (tmp_path / name for name in ("text.jpg", "empty.png", "cut"))
    text.write_text("no image")
    empty.touch()
    cut.write_bytes(good.read_bytes()[:300])
    result = invoke(run.path, text, good, empty, cut)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [sorted(line) for line in lines] == [
        ["error", "path"],
        ["path", "top"],
        *[["error", "path"]] * 2,
    ]
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == (
        '3 of 4 images cannot be read; see "error" in their lines.'
    )
    [alone] = predicted(run.path, good)
    for one, other in zip(lines[1]["top"], alone["top"], strict=True):
        assert one == other | {"probability": pytest.approx(other["probability"])}


def test_any_kind_of_image_and_any_name(run, tmp_path):
    for name, mode in (("a.png", "RGBA"), ("b.webp", "RGB"), ("c.gif", "P"), ("d", "L")):
        kind = Path(name).suffix[1:] or "jpeg"
        Image.new(mode, (50, 40)).save(tmp_path / name, kind)
    odd = os.fsdecode(bytes(tmp_path) + b'/\xff\n".jpg')
    Image.new("L", (9, 9)).save(os.fsencode(odd), "jpeg")
    black = [tmp_path / name for name in ("a.png", "b.webp", "c.gif", "d")]
    lines = predicted(run.path, *black, odd)
    assert len(lines) == 5 and lines[-1]["path"] == odd
    assert len({str(line["top"]) for line in lines[:4]}) == 1


def test_top_k_and_names_that_are_not_known(run, folder):
    one = folder / "images" / "0" / "0000.jpg"
    assert [len(predicted(run.path, one, "--top-k", k)[0]["top"]) for k in (1, 2, 9)] == [1, 2, 5]
    write_checkpoint(run, load_settings(run.config))
    [line] = predicted(run.path, one)
    assert {found["class"] for found in line["top"]} == {None}
    assert sorted(found["index"] for found in line["top"]) == list(range(5))


def test_the_average_of_the_weights_is_taken_if_the_run_has_one(run, folder):
    before = predicted(run.path, folder / "images")
    settings = load_settings(run.config)
    path = run.newest_checkpoint()
    weights = {n: 2 * w for n, w in torch.load(path, weights_only=True)["weights"].items()}
    write_checkpoint(run, settings, parts=parts() | {"average": {"weights": weights}})
    assert predicted(run.path, folder / "images") != before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.jpg"], "nowhere.jpg: there is no such file; name images"),
        (["nowhere/*.jpg"], "nowhere/*.jpg: fits no file; name images"),
        (["empty"], "empty: there are no images here; name a folder with some (jpg, jpeg, png"),
        (["batch.per_rank=2"], "no images are named; name images"),
        (["model.nothing=2", "a.jpg"], "model.nothing"),
    ],
)
def test_what_is_not_there_is_refused_before_anything_begins(
    words, message, run, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    result = invoke(run.path, *words)
    assert (result.exit_code, result.stdout) == (2, "") and message in result.stderr


def test_several_runs_are_refused_with_the_name_of_one(run, folder):
    untrained_run(run.path.parent / "another", folder / "val")
    result = invoke(run.path.parent, folder / "images")
    assert result.exit_code == 2
    assert f"{run.path.parent}: here are 2 runs; name one, such as" in result.stderr


def test_a_network_without_finite_numbers_says_so(run, folder):
    path = run.newest_checkpoint()
    state = torch.load(path, weights_only=True)
    state["weights"]["linear.weight"].fill_(float("nan"))
    torch.save(state, path)
    result = invoke(run.path, folder / "images")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "the network computes no finite numbers" in result.stderr


def test_the_program_prints_lines_alone_on_stdout(run, folder):
    done = subprocess.run(
        [sys.executable, "-m", "rwp_dist", "predict", run.path, folder / "images"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert [sorted(json.loads(line)) for line in done.stdout.splitlines()] == [
        ["path", "top"]
    ] * NUM
