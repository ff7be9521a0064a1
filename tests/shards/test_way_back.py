"""What ``shards write`` makes is read, with its labels, by the usual pipelines of others."""

import io
import warnings

import numpy as np
import pytest
import webdataset as wds
from PIL import Image
from support.shard_files import jpeg, run

CLASSES = ("n01440764", "n01443537", "n01484850")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of two folders of shards, and of each {pixels: label}."""
    return write(tmp_path_factory.mktemp("sets"), ("JPEG", "jpg", "PNG", "webp"))


def write(root, endings):
    pixels = {}
    for split, each in (("train", 5), ("val", 2)):
        found = pixels[split] = {}
        for label, name in enumerate(CLASSES):
            (root / "in" / split / name).mkdir(parents=True)
            for number in range(each):
                ending = endings[number % len(endings)]
                picture = Image.open(io.BytesIO(jpeg(len(found) + 100 * each)))
                path = root / "in" / split / name / f"{name}_{number}.with.dots.{ending}"
                picture.save(path, {"jpg": "jpeg"}.get(ending.lower(), ending.lower()))
                found[bits(Image.open(path))] = label
        run("write", root / "in" / split, "--out", root / split, "--samples-per-shard", 4)
    return root, pixels


def bits(image):
    return np.asarray(image.convert("RGB")).tobytes()


def patterns(root):
    """Brace patterns of the shards of each folder, relative to the root."""
    return {
        split: f"{split}/{split}-{{000000..{len(list((root / split).glob('*.tar'))) - 1:06d}}}.tar"
        for split in ("train", "val")
    }


def test_webdataset(written):
    root, pixels = written
    for split, pattern in patterns(root).items():
        data = wds.WebDataset(f"{root}/{pattern}", shardshuffle=False).decode("pil")
        found = list(data.to_tuple("jpg;png;webp", "cls"))
        assert {bits(image): label for image, label in found} == pixels[split]
        assert len(found) == len(pixels[split])


@pytest.mark.parametrize("training", [False, True])
def test_timm(written, training):
    timm = pytest.importorskip("timm.data")
    root, pixels = written
    for split, pattern in patterns(root).items():
        count = len(pixels[split])
        data = timm.create_dataset(
            "wds/", str(root), split=f"{pattern}|{count}", is_training=training, batch_size=1
        )
        found = list(data)
        assert {bits(image): label for image, label in found} == pixels[split]
        assert len(data) == len(found) == count


def test_hugging_face(tmp_path):
    """Its columns are those of the first samples, so all images are of one kind."""
    datasets = pytest.importorskip("datasets")
    root, pixels = write(tmp_path, ("JPEG",))
    files = {split: f"{root}/{split}/*.tar" for split in ("train", "val")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = datasets.load_dataset("webdataset", data_files=files, cache_dir=str(root / "cache"))
    for split, wanted in pixels.items():
        assert found[split].num_rows == len(wanted)
        assert {bits(row["jpg"]): row["cls"] for row in found[split]} == wanted
