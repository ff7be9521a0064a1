"""The same shards by this project and by plain WebDataset, and their files by torchvision."""

import io

import numpy as np
import webdataset as wds
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from rwp_dist.config import load_settings, split_batch
from rwp_dist.data.open import open_train
from rwp_dist.shards.synthetic import synthetic_listing
from rwp_dist.shards.write import write_shards

NUM, SIZE, CLASSES, BATCH = 30, 48, 3, 10


def by_label(samples):
    """(pixels ``[H, W, C]``, label) of all samples, in an order of their own."""
    return sorted((int(label), np.asarray(pixels).tobytes()) for pixels, label in samples)


def ours(shards):
    overrides = {
        "data.train": shards,
        "data.image_size": SIZE,
        "data.channels": 3,
        "data.mean": [0.5] * 3,
        "data.std": [0.5] * 3,
        "data.pad_last": "true",
        "data.workers": 0,
        "augment.crop": "none",
        "augment.flip": "false",
        "model.num_classes": CLASSES,
        "batch.global": BATCH,
        "method.name": "sgd",
    }
    settings = load_settings(None, [f"{key}={value}" for key, value in overrides.items()])
    stream = open_train(settings, split_batch(settings, 1), 0)
    for step in stream.steps(0, stream.steps_per_epoch):
        for batch in step.batches:
            for image, label, weight in zip(batch.images, batch.labels, batch.weights, strict=True):
                if weight:
                    yield image.permute(1, 2, 0), label


def web_dataset(shards):
    def decode(data):
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    urls = [str(path) for path in sorted(shards.glob("*.tar"))]
    data = wds.WebDataset(urls, shardshuffle=False, empty_check=False)
    return data.to_tuple("jpg", "cls").map_tuple(decode, int)


def image_folder(files):
    data = ImageFolder(str(files), transform=np.array)
    for images, labels in DataLoader(data, batch_size=BATCH):
        yield from zip(images, labels, strict=True)


def test_an_epoch_has_the_images_and_labels_that_the_peers_read(tmp_path):
    listing = synthetic_listing(NUM, SIZE, SIZE, CLASSES, seed=0)
    write_shards(listing, tmp_path / "shards", samples_per_shard=8)
    for sample in listing.samples:
        path = tmp_path / "files" / str(sample.label) / sample.name.rpartition("/")[2]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(listing.read(sample))
    found = by_label(ours(tmp_path / "shards"))
    assert len(set(found)) == NUM
    assert found == by_label(web_dataset(tmp_path / "shards"))
    assert found == by_label(image_folder(tmp_path / "files"))
