"""The commands of ``rwp-dist shards``. They import what they do only when they run."""
