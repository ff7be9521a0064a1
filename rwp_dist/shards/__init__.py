"""Shards on disk: written, indexed, described by a manifest, verified and looked at.

::

    FOLDER/train-000000.tar             samples: an image and its ``.cls`` label, webdataset's way
    FOLDER/train-000000.tar.index.npy   where each image lies, its crc32 and its label
    FOLDER/manifest.json                counts, sizes and sha256 of all shards, and an id over them
    FOLDER/.written/                    what a command that was killed goes on from

Importing this package imports neither torch nor webdataset.
"""
