"""webdataset, on the shards of this project. To go on, it reads all samples before again."""

from itertools import islice
from pathlib import Path
from typing import Any

import torch
import webdataset as wds
from growing.data_sets import make_data_set
from torchvision.io import decode_jpeg

from peers.peer import PER_SHARD, RANK_BATCH, Place


class Web:
    """Shards in random order, and a buffer of 1,000 samples that are shuffled."""

    name, package = "webdataset", "webdataset"

    def make_large(self, folder: Path, num_shards: int) -> None:
        make_data_set(folder, num_shards * PER_SHARD)

    def position(self, folder: Path) -> Any:
        return int(0.9 * PER_SHARD * len(list(folder.glob("*.tar"))))

    def first_batch(self, place: Place) -> None:
        urls = [str(path) for path in sorted(place.folder.glob("*.tar"))]
        data = wds.WebDataset(urls, shardshuffle=100, seed=0).shuffle(1000).to_tuple("jpg", "cls")
        skipped = place.position or 0
        images = []
        for image, _ in islice(data, skipped, skipped + RANK_BATCH):
            images.append(decode_jpeg(torch.frombuffer(bytearray(image), dtype=torch.uint8)))
        assert len(torch.stack(images)) == RANK_BATCH
