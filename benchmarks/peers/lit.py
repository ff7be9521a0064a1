"""litdata: chunks of its own, ``optimize`` and ``StreamingDataset``."""

import json
import os
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from growing.command import silent
from PIL import Image
from torch import Tensor

from peers.peer import BATCH, PER_SHARD, RANK_BATCH, Place, make_tiny, of_tensor, photos_of


def sample_of(path: str) -> dict[str, Any]:
    """What is stored of an image; its file is kept as it is."""
    return {"image": Image.open(path), "class": int(Path(path).parent.name)}


class Lit:
    """Its data set decodes JPEGs to tensors; a class that inherits from it transforms them."""

    name, package = "litdata", "litdata"

    def write(self, files: Path, out: Path) -> None:
        _optimize(photos_of(files), out, chunk_bytes="64MB")

    def batches(self, out: Path) -> Iterator[Tensor]:
        loader = self._loader(out, BATCH, of_tensor())
        while True:
            for images, _ in loader:
                if len(images) == BATCH:
                    yield images

    def make_large(self, folder: Path, num_shards: int) -> None:
        real = folder.with_name("real-lit")
        tiny = make_tiny(folder.with_name("tiny"))
        if not real.exists():
            _optimize(tiny, real, chunk_size=PER_SHARD)
        index = json.loads((real / "index.json").read_text())
        [chunk] = index["chunks"]
        folder.mkdir()
        index["chunks"] = []
        for number in range(num_shards):
            name = f"chunk-0-{number}.bin"
            os.link(real / chunk["filename"], folder / name)
            index["chunks"].append(chunk | {"filename": name})
        (folder / "index.json").write_text(json.dumps(index))

    def position(self, folder: Path) -> Any:
        loader = self._loader(folder, RANK_BATCH, _same)
        next(iter(loader))
        state = loader.state_dict()
        done = int(0.9 * PER_SHARD * len(list(folder.glob("*.bin")))) // RANK_BATCH * RANK_BATCH
        state["dataset"] |= {"num_samples_yielded": done, "sample_in_epoch": done}
        return state | {"num_samples_yielded": done}

    def first_batch(self, place: Place) -> None:
        loader = self._loader(place.folder, RANK_BATCH, _same)
        if place.position is not None:
            loader.load_state_dict(place.position)
        assert len(next(iter(loader))[0]) == RANK_BATCH

    def _loader(self, folder: Path, batch: int, transform: Callable[[Tensor], Tensor]) -> Any:
        package = import_module("litdata")

        class Images(package.StreamingDataset):  # type: ignore[name-defined]
            def __getitem__(self, number: int) -> tuple[Tensor, int]:
                sample = super().__getitem__(number)
                return transform(sample["image"]), sample["class"]

        data = Images(str(folder), shuffle=True, drop_last=True)
        return package.StreamingDataLoader(data, batch_size=batch)


def _optimize(images: list[str], out: Path, **chunks: Any) -> None:
    with silent():
        import_module("litdata").optimize(sample_of, images, str(out), num_workers=1, **chunks)


def _same(image: Tensor) -> Tensor:
    return image
