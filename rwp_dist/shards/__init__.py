"""Make data sets: write shards, or index tars that exist; verify them and look at them.

::

    FOLDER/train-000000.tar             samples: an image and its ``.cls`` label, as in webdataset
    FOLDER/train-000000.tar.index.npy   where each image lies, its crc32 and its label
    FOLDER/manifest.json                counts, sizes and sha256 of all shards, and an id over them
    FOLDER/.written/                    which shards are finished, for a command that was killed

``rwp_dist.data.format`` describes the files. Importing this package imports neither torch nor
webdataset.
"""
