"""MosaicML streaming: shards of its own, ``MDSWriter`` and ``StreamingDataset``."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_tensor

from peers.peer import BATCH, PER_SHARD, RANK_BATCH, Place, make_tiny, of_pillow, photos_of

COLUMNS = {"image": "jpeg", "class": "int"}
NODES, SEED = 64, 9176
"""Its defaults of ``num_canonical_nodes`` and ``shuffle_seed``."""


def _package() -> Any:
    """``streaming``, which has the name of a script beside this folder."""
    scripts = str(Path(__file__).parents[1])
    before = list(sys.path)
    sys.path[:] = [path for path in sys.path if path != scripts]
    try:
        return import_module("streaming")
    finally:
        sys.path[:] = before


class Mosaic:
    """Its data set decodes with Pillow; a class that inherits from it transforms the images."""

    name, package = "MosaicML streaming", "mosaicml-streaming"

    def write(self, files: Path, out: Path) -> None:
        with _package().MDSWriter(out=str(out), columns=COLUMNS) as writer:
            for path in photos_of(files):
                writer.write({"image": Image.open(path), "class": int(Path(path).parent.name)})

    def batches(self, out: Path) -> Iterator[Tensor]:
        loader = self._loader(out, BATCH, of_pillow())
        while True:
            for images, _ in loader:
                if len(images) == BATCH:
                    yield images

    def make_large(self, folder: Path, num_shards: int) -> None:
        real = folder.with_name("real-mds")
        tiny = make_tiny(folder.with_name("tiny"))
        if not real.exists():
            with _package().MDSWriter(out=str(real), columns=COLUMNS) as writer:
                for label, path in enumerate(tiny):
                    writer.write({"image": Image.open(path), "class": label})
        index = json.loads((real / "index.json").read_text())
        [shard] = index["shards"]
        folder.mkdir()
        index["shards"] = []
        for number in range(num_shards):
            raw = shard["raw_data"] | {"basename": f"shard.{number:05d}.mds"}
            os.link(real / shard["raw_data"]["basename"], folder / raw["basename"])
            index["shards"].append(shard | {"raw_data": raw})
        (folder / "index.json").write_text(json.dumps(index))

    def position(self, folder: Path) -> Any:
        num_samples = PER_SHARD * len(list(folder.glob("*.mds")))
        return {
            "epoch": 0,
            "sample_in_epoch": int(0.9 * num_samples) // RANK_BATCH * RANK_BATCH,
            "num_canonical_nodes": NODES,
            "shuffle_seed": SEED,
            "initial_physical_nodes": 1,
        }

    def first_batch(self, place: Place) -> None:
        loader = self._loader(place.folder, RANK_BATCH, to_tensor)
        if place.position is not None:
            loader.load_state_dict(place.position)
        assert len(next(iter(loader))[0]) == RANK_BATCH

    def _loader(self, folder: Path, batch: int, transform: Callable[[Any], Tensor]) -> Any:
        package = _package()

        class Images(package.StreamingDataset):  # type: ignore[name-defined]
            def __getitem__(self, number: int) -> tuple[Tensor, int]:
                sample = super().__getitem__(number)
                return transform(sample["image"]), sample["class"]

        data = Images(local=str(folder), shuffle=True, batch_size=batch)
        return package.StreamingDataLoader(data, batch_size=batch)
