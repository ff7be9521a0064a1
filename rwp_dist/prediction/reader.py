"""Batches of images from files, read and decoded by workers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from rwp_dist.base.files import read_file
from rwp_dist.data.batch import BadRecord
from rwp_dist.data.format.sample import MOST_IMAGE_BYTES
from rwp_dist.data.image import EvalTransform, UndecodableImage
from rwp_dist.data.remote import CacheStats
from rwp_dist.data.worker import ItemReader, Loaded


@dataclass(eq=False)
class FileReader(ItemReader):
    """Batches of image files; one that is unreadable is black, and a bad record says why."""

    paths: Sequence[str]
    transform: EvalTransform
    """From the bytes of an image to pixels."""
    batch: int
    """Images of one batch; the last one may have fewer."""

    @property
    def num_batches(self) -> int:
        """Of all workers."""
        return -(-len(self.paths) // self.batch)

    def items(self, worker: int, workers: int) -> Iterator[Loaded]:
        """Those of one of so many workers."""
        for number in range(worker, self.num_batches, workers):
            yield self._load(number)

    def _load(self, number: int) -> Loaded:
        first = number * self.batch
        paths = self.paths[first : first + self.batch]
        size, channels = self.transform.size, self.transform.decoder.channels
        images = np.zeros((len(paths), size, size, channels), np.uint8)
        bad, num_bytes = list[BadRecord](), 0
        for place, path in enumerate(paths):
            try:
                data = read_file(Path(path), MOST_IMAGE_BYTES)
                self.transform(data, (first + place,), images[place])
                num_bytes += len(data)
            except (OSError, UndecodableImage) as error:
                images[place] = 0
                cause = getattr(error, "strerror", None) or str(error)
                bad.append(BadRecord(number, first + place, cause))
        return Loaded(
            number,
            torch.from_numpy(images).permute(0, 3, 1, 2),
            torch.zeros(len(paths), dtype=torch.int64),
            torch.ones(len(paths)),
            bad,
            num_bytes,
            CacheStats(),
        )
