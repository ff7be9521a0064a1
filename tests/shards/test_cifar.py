"""CIFAR-100's archive becomes shards; a pickle that wants more than arrays is refused."""

import io
import os
import pickle
import subprocess

import numpy as np
import pytest
from PIL import Image
from support.shard_files import run, tar_contents, tar_file

from rwp_dist.base.errors import DataError
from rwp_dist.data.format.manifest import Manifest
from rwp_dist.shards.cifar import cifar100_listing

COUNTS = {"train": 25, "test": 10}
PIXELS = {
    split: np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    for split, count in COUNTS.items()
}


def old_pickle(value):
    """A pickle such as numpy 1 wrote."""
    return pickle.dumps(value, protocol=2).replace(b"numpy._core.", b"numpy.core.")


def archive(folder, **changes):
    """An archive laid out as the official one: rows of red, then green, then blue pixels."""
    content = {
        split: {
            "data": pixels.transpose(0, 3, 1, 2).reshape(-1, 3072),
            "fine_labels": [row % 5 for row in range(len(pixels))],
            "coarse_labels": [0] * len(pixels),
        }
        for split, pixels in PIXELS.items()
    }
    content["meta"] = {"fine_label_names": ["apple", "bear", "can", "dinosaur", "elm"]}
    members = [
        (f"cifar-100-python/{name}", old_pickle(value))
        for name, value in (content | changes).items()
        if value is not None
    ]
    plain = tar_file(folder / "cifar-100-python.tar", members)
    subprocess.run(["gzip", "-f", plain], check=True)
    return folder / "cifar-100-python.tar.gz"


def test_every_image_becomes_a_png_with_its_fine_label(tmp_path):
    out = tmp_path / "out"
    text = run("cifar100", archive(tmp_path), "--out", out)
    assert text.splitlines() == [
        f"{out}/{split}: {count} samples in 1 shard, with a manifest"
        for split, count in COUNTS.items()
    ]
    for split, pixels in PIXELS.items():
        found = tar_contents(out / split / f"{split}-000000.tar")
        rows = [
            pixels.tolist().index(np.array(Image.open(io.BytesIO(i))).tolist()) for _, i, _ in found
        ]
        assert sorted(rows) == list(range(COUNTS[split])) and rows != sorted(rows)
        assert [label for _, _, label in found] == [row % 5 for row in rows]
        assert Manifest.load(out / split).classes == ("apple", "bear", "can", "dinosaur", "elm")


class Program:
    def __reduce__(self):
        return os.system, ("touch ran",)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"train": Program()}, "it asks for posix.system"),
        ({"train": None}, "cifar-100-python/train"),
        ({"train": [1, 2]}, "holds no dictionary"),
        ({"train": {"data": PIXELS["train"].reshape(-1, 3072), "fine_labels": [0]}}, "as many"),
        ({"train": {"fine_labels": [0]}}, "data"),
        ({"meta": {"fine_label_names": ["apple"]}}, "a label has no name"),
    ],
)
def test_another_archive_is_refused_and_runs_nothing(tmp_path, monkeypatch, changes, why):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="is not the CIFAR-100 archive") as caught:
        cifar100_listing(archive(tmp_path, **changes), "train")
    assert why in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_an_archive_that_is_cut_short_is_refused(tmp_path):
    path = archive(tmp_path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DataError, match="is damaged"):
        cifar100_listing(path, "train")
