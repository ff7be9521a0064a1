"""What the samples of a data set are called in their tars."""

from rwp_dist.base.errors import DataError
from rwp_dist.base.urls import shown
from rwp_dist.data.dataset import Dataset
from rwp_dist.data.format.sample import Fields, read_samples
from rwp_dist.data.reader import open_shard
from rwp_dist.data.remote import NodeCache


def sample_names(dataset: Dataset, cache: NodeCache | None) -> list[str]:
    """The key of every sample, such as ``0012345_ILSVRC2012_val_00000001``.

    Reads the headers of all shards: some seconds for 50,000 samples on a disk.

    Raises:
        DataError: a shard cannot be read, or its samples are not those of its index.
    """
    names: list[str] = []
    for number, shard in enumerate(dataset.shards):
        with open_shard(shard, cache) as file:
            places = {
                found.offset: sample.key
                for sample in read_samples(file, shown(shard.url), Fields(), images=False)
                for found in sample.files.values()
            }
        offsets = dataset.rows_of(number)["offset"].tolist()
        if not places.keys() >= set(offsets):
            raise DataError(
                f"{shown(shard.url)}: its samples are not those of its index",
                cure="index it again with `rwp-dist shards index`",
            )
        names += [places[offset] for offset in offsets]
    return names
