"""Make data sets: write shards, or index tars that exist; verify them and look at them.

::

    FOLDER/train-000000.tar             samples: an image and its ``.cls`` label, as in webdataset
    FOLDER/train-000000.tar.index.npy   where each image lies, its crc32 and its label
    FOLDER/manifest.json                counts, sizes and sha256 of all shards, and an id over them
    FOLDER/samples.index                all of that in one file that ranks map
    FOLDER/.written/                    which shards are finished, for a command that was killed

``rwp_dist.data.format`` describes the files. Importing this package imports no torch.
"""

from typing import TYPE_CHECKING

from rwp_dist.base.lazy import lazy_names

if TYPE_CHECKING:
    from rwp_dist.shards.mnist import load_mnist, split_by_class
    from rwp_dist.shards.synthetic import synthetic_listing
    from rwp_dist.shards.write import write_shards
else:
    __getattr__ = lazy_names(
        __name__,
        load_mnist="mnist",
        split_by_class="mnist",
        synthetic_listing="synthetic",
        write_shards="write",
    )

__all__ = ["load_mnist", "split_by_class", "synthetic_listing", "write_shards"]
