"""This project: one rank of eight."""

import shutil
from pathlib import Path
from typing import Any

from growing.data_sets import RANKS, make_data_set, settings_of

from peers.peer import PER_SHARD, Place
from rwp_dist.config import split_batch
from rwp_dist.data import open_train


class Ours:
    """With what this node has noted of the data set before, or, ``anew``, without."""

    package = ""

    def __init__(self, anew: bool) -> None:
        self.anew = anew
        self.name = "this project" + (", first time on a node" if anew else "")

    def make_large(self, folder: Path, num_shards: int) -> None:
        make_data_set(folder, num_shards * PER_SHARD)

    def position(self, folder: Path) -> Any:
        self.first_batch(Place(folder))  # the node has seen it
        return 0.9

    def first_batch(self, place: Place) -> None:
        cache = place.folder.with_name(f"{place.folder.name}-cache")
        if self.anew:
            shutil.rmtree(cache, ignore_errors=True)
        settings = settings_of(place.folder, cache)
        stream = open_train(settings, split_batch(settings, RANKS), 3)
        first = int((place.position or 0) * stream.steps_per_epoch)
        assert next(stream.steps(first, first + 1)).valid
