"""torchvision's ImageFolder and PyTorch's DataLoader, which have no position."""

import os
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import to_tensor

from peers.peer import PER_SHARD, RANK_BATCH, Place, make_tiny


class Folder:
    """A file for each image, in a folder for each class."""

    name, package = "ImageFolder", "torchvision"

    def make_large(self, folder: Path, num_shards: int) -> None:
        for path in make_tiny(folder.with_name("tiny")):
            own = folder / Path(path).parent.name
            own.mkdir(parents=True)
            for number in range(num_shards * PER_SHARD // 1000):
                os.link(path, own / f"{own.name}_{number}.jpg")

    def position(self, folder: Path) -> Any:
        return None

    def first_batch(self, place: Place) -> None:
        data = ImageFolder(str(place.folder), to_tensor)
        images, _ = next(iter(DataLoader(data, batch_size=RANK_BATCH, shuffle=True)))
        assert len(images) == RANK_BATCH
