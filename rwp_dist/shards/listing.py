"""The samples of whatever shards are made from."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from rwp_dist.base.errors import DataError
from rwp_dist.base.urls import local_path
from rwp_dist.data.format.sample import Fields
from rwp_dist.shards.labels import list_labelled
from rwp_dist.shards.location import count_left_out, expand_shards, tars_in
from rwp_dist.shards.nested import holds_tars, list_nested
from rwp_dist.shards.sources import Listing, list_folders, list_lines, list_tars

_ARCHIVES = {".gz", ".tgz", ".xz", ".zst", ".bz2", ".zip", ".7z", ".rar"}


def list_source(
    source: str, fields: Fields | None = None, workers: int = 1, labels: Path | None = None
) -> Listing:
    """List a folder with a folder per class, a list file, tars, or a tar of a tar per class.

    Args:
        source: a folder, a file, or a brace pattern of tars.
        fields: which files of a sample in the tars are its image and its label.
        workers: processes that read tars.
        labels: table with the labels of images in one folder or tar.

    Raises:
        DataError: it is none of these, or holds no samples.
    """
    path = local_path(source)
    if path is None:
        raise DataError(
            f"{source}: shards are made from local files",
            cure="copy it first, or leave the tars where they are and use `rwp-dist shards index`",
        )
    if labels is not None:
        return list_labelled(path, labels)
    if path.is_dir() and not tars_in(path):
        return list_folders(path)
    if path.is_file() and path.suffix.lower() in _ARCHIVES:
        raise DataError(f"{path}: this is an archive", cure="unpack it, and name what is in it")
    if path.is_file() and path.suffix != ".tar":
        return list_lines(path)
    if path.is_file() and holds_tars(path):
        return list_nested(path)
    listing = list_tars(expand_shards([source]), fields or Fields(), workers)
    return replace(listing, left_out=count_left_out([source]) + Counter(listing.left_out))
