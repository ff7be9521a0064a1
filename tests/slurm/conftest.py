"""One cluster for all tests of this folder, and one small data set in ImageNet's layout."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.cluster import Cluster, missing

from rwp_dist.cli import main
from rwp_dist.shards.samples import Source
from rwp_dist.shards.synthetic import make_jpeg

CLASSES = ("n01440764", "n01443537", "n01484850", "n01491361")
CONFIG = """
data: {train: shards/train, val: shards/val, image_size: 16, workers: 1, lanes: 1}
model: {name: small_cnn, num_classes: 4}
batch: {global: 24, per_rank: 12}
method: {name: m-arwp}
run: {device: cpu}
schedule: {epochs: 5}
checkpoint: {every_epochs: 1}
evaluation: {every_epochs: 0}
tracking: {log_every: 1, wandb: off}
"""


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    lack = missing()
    if lack and {"CI", "RWP_NEEDS_SLURM"} & os.environ.keys():
        pytest.fail(f"The tests of the job script need a Slurm: {lack}.")
    if lack:
        pytest.skip(f"no Slurm to try the job script on: {lack}")
    with Cluster(tmp_path_factory.mktemp("slurm") / "cluster") as cluster:
        yield cluster


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to submit from: ``tiny.yaml`` and its JPEG shards."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "tiny.yaml").write_text(CONFIG)
    for split, images in (("train", 24), ("val", 4)):
        for number, name in enumerate(CLASSES):
            (folder / "imagenet" / split / name).mkdir(parents=True)
            for image in range(images):
                row = Source("", "jpg", number, "", number * images + image)
                path = folder / "imagenet" / split / name / f"{name}_{image}.JPEG"
                path.write_bytes(make_jpeg(row, width=40, height=32, seed=0))
        arguments = [str(folder / "imagenet" / split), "--out", str(folder / "shards" / split)]
        done = CliRunner().invoke(main, ["shards", "write", *arguments, "--workers", "1"])
        assert done.exit_code == 0, done.output
    return folder
