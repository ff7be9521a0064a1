"""The files of a data set. ``rwp_dist.shards`` writes them, training reads them.

::

    FOLDER/train-000000.tar             samples: an image and its label (``tar``, ``sample``)
    FOLDER/train-000000.tar.index.npy   offset, size, crc32 and label of each image (``index``)
    FOLDER/manifest.json                counts, sizes and sha256 of all shards (``manifest``)
    FOLDER/samples.index                all of that in one file that ranks map (``joined``)
"""

from rwp_dist.data.format.index import IndexedShard, index_bytes, index_name, load_index
from rwp_dist.data.format.manifest import Manifest, ShardEntry, describe

__all__ = [
    "IndexedShard",
    "Manifest",
    "ShardEntry",
    "describe",
    "index_bytes",
    "index_name",
    "load_index",
]
