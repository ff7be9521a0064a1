"""Shards on disk: tar, index, manifest."""
