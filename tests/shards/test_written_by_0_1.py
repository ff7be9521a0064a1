"""Data sets that version 0.1 wrote (commit 44da40c) are read, verified and continued.

The fixture holds 24 and 12 images of 3 classes, 12x12 pixels, in shards of 8 and 6. They were
written from a folder per class with ``class0/0.png, class0/1.jpg, ...``.
"""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.shard_files import files, run, tar_contents

from rwp_dist.base.errors import DataError
from rwp_dist.config import load_settings, split_batch
from rwp_dist.data.format.joined import map_joined
from rwp_dist.data.format.manifest import JOINED_NAME, Manifest
from rwp_dist.data.open import open_eval, open_train
from rwp_dist.shards.verify import LEVELS

FIXTURE = Path(__file__).parents[1] / "fixtures" / "written_by_0_1" / "shards"
SIDES = {"train": (24, 8), "val": (12, 6)}
"""Samples, and samples of each shard."""
EPOCHS = [
    [[[0, 2, 2, 2], [1, 2, 2, 0]], [[1, 1, 1, 0], [2, 2, 1, 2]], [[0, 1, 0, 1], [0, 0, 1, 0]]],
    [[[2, 2, 2, 0], [1, 0, 2, 0]], [[2, 0, 1, 0], [0, 1, 1, 2]], [[0, 1, 1, 2], [1, 2, 1, 0]]],
]
"""Labels of two epochs by step and micro-batch, as version 0.1 read them."""


def samples_of(side: str) -> list[tuple[str, bytes, int]]:
    """(key, image, label) of all samples, in order."""
    return [s for tar in sorted((FIXTURE / side).glob("*.tar")) for s in tar_contents(tar)]


def images_of(side: str, folder: Path) -> Path:
    """The folder per class that a side of the fixture was written from."""
    for key, image, label in samples_of(side):
        kind = "png" if image.startswith(b"\x89PNG") else "jpg"
        path = folder / side / f"class{label}" / f"{key.split('_')[1]}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
    return folder / side


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the fixture to write into."""
    return Path(shutil.copytree(FIXTURE, tmp_path / "shards"))


def but_joined(folder: Path) -> dict[str, bytes]:
    """The files that version 0.1 wrote, too."""
    return {name: data for name, data in files(folder).items() if JOINED_NAME not in name}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("side", SIDES)
def test_they_verify(side: str, level: str) -> None:
    assert f"{SIDES[side][0]} samples, all good ({level})" in run(
        "verify", FIXTURE / side, "--level", level
    )


def test_their_ids_have_not_changed() -> None:
    ids = [Manifest.load(FIXTURE / side).id[:16] for side in SIDES]
    assert ids == ["fac52b89ea88094c", "b17c729f2b66c2d8"]


@pytest.mark.parametrize("side", SIDES)
def test_the_same_command_writes_the_same_bytes(side: str, tmp_path: Path) -> None:
    write(side, tmp_path)
    assert but_joined(tmp_path / side) == files(FIXTURE / side)


@pytest.mark.parametrize("side", SIDES)
def test_a_command_that_was_interrupted_continues(side: str, copy: Path) -> None:
    folder = copy / side
    (folder / "manifest.json").unlink()
    last = sorted(folder.glob("*.tar"))[-1]
    last.unlink()
    kept = {path: path.stat().st_mtime_ns for path in folder.rglob("*000000*")}
    with pytest.raises(DataError, match="has not finished"):
        run("index", folder)
    write(side, copy)
    assert but_joined(folder) == files(FIXTURE / side)
    assert len(kept) == 3 and kept == {path: path.stat().st_mtime_ns for path in kept}


def test_another_command_is_refused(copy: Path) -> None:
    with pytest.raises(DataError) as refused:
        write("train", copy, "--seed", 1)
    assert "other settings" in refused.value.problem
    assert "empty folder" in refused.value.cure
    assert files(copy) == files(FIXTURE)


def test_a_source_with_another_image_is_refused(copy: Path) -> None:
    source = images_of("train", copy.with_name("images"))
    shutil.copy(source / "class0" / "0.png", source / "class0" / "more.png")
    with pytest.raises(DataError, match="another source"):
        run("write", source, "--out", copy / "train", "--samples-per-shard", SIDES["train"][1])
    assert files(copy) == files(FIXTURE)


def test_tars_that_are_added_can_be_indexed(copy: Path) -> None:
    before = files(copy / "train")
    shutil.copy(copy / "val" / "val-000000.tar", copy / "train" / "z-more.tar")
    run("index", copy / "train")
    after = files(copy / "train")
    manifest = Manifest.load(copy / "train")
    assert manifest.num_samples == 24 + 6
    assert manifest.shards[:3] == Manifest.load(FIXTURE / "train").shards
    before.pop("manifest.json")
    assert before == {name: after[name] for name in before}


def test_indexing_them_again_changes_nothing_and_adds_the_joined_index(copy: Path) -> None:
    run("index", copy / "train")
    assert but_joined(copy) == files(FIXTURE)
    assert map_joined(copy / "train" / JOINED_NAME).head["id"] == Manifest.load(copy / "train").id


def test_an_evaluation_reads_the_same_images_and_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FIXTURE.parent)
    whole = ["data.image_size=12", "data.eval_crop_ratio=1.0"]
    settings = load_settings("run/config.yaml", whole)
    batches = [b for step in open_eval(settings, 0, 1).steps() for b in step.batches]
    real = np.concatenate([batch.weights.numpy() > 0 for batch in batches])
    images = np.concatenate([batch.images.numpy() for batch in batches])[real]
    labels = np.concatenate([batch.labels.numpy() for batch in batches])[real]
    known = samples_of("val")
    assert labels.tolist() == [label for _, _, label in known]
    for image, (_, content, _) in zip(images, known, strict=True):
        assert (image.transpose(1, 2, 0) == np.array(Image.open(io.BytesIO(content)))).all()


def test_training_reads_samples_in_the_same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FIXTURE.parent)
    settings = load_settings("run/config.yaml")
    stream = open_train(settings, split_batch(settings, 1), 0)
    labels = [[b.labels.tolist() for b in step.batches] for step in stream.steps(0, 6)]
    assert [labels[:3], labels[3:]] == EPOCHS


def write(side: str, out: Path, *more: object) -> None:
    """The command that wrote a side of the fixture, into ``out/side``."""
    source = images_of(side, out.with_name("images"))
    run("write", source, "--out", out / side, "--samples-per-shard", SIDES[side][1], *more)
