"""What collections of others say of their shards: names, counts, sizes and classes.

A folder or address has one of::

    _info.json, info.json   timm and Hugging Face: {"splits": {"train": {"filenames": [...],
                            "shard_lengths": [...]}}}
    sizes.json              open_clip: {"00000.tar": 1000, ...}
    index.json, or any      wids and webdataset: {"shardlist": [{"url": ..., "nsamples": ...,
    .json that is named     "filesize": ...}]}
    00000_stats.json        img2dataset, one beside each shard: {"successes": 1000, ...}
    classnames.txt          names of label 0, 1, ... on its lines; may be missing

Such a file names shards beside itself, or below: what comes from elsewhere must not lead anywhere
else.
"""

import posixpath
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from rwp_dist.base.errors import ConfigError, DataError
from rwp_dist.base.files import MOST_JSON_BYTES, parse_json, read_file, text_lines
from rwp_dist.base.urls import joined, local_path, parent, shown
from rwp_dist.data.format.index import index_tar
from rwp_dist.data.format.sample import Fields
from rwp_dist.data.remote import NoAttemptsLeftError, read_url
from rwp_dist.shards.location import expand_braces, expand_shards, open_shard

INFO_NAMES = ("_info.json", "info.json", "sizes.json", "index.json")
"""Where counts are looked for, in this order."""
CLASSES_NAME = "classnames.txt"
REQUESTS = 16
"""Files that are read at the same time."""

_STATS = "_stats.json"
_SPLIT = ("filenames", "shard_lengths")


class CountedShard(NamedTuple):
    """What a collection says of one shard."""

    location: str
    """Path or URL."""
    num_samples: int
    num_bytes: int | None = None
    """None: it does not say."""


@dataclass(frozen=True)
class Collection:
    """What a collection says of all its shards."""

    shards: Sequence[CountedShard]
    classes: tuple[str, ...] | None
    """Names of the labels; None: it does not say."""
    source: str
    """What the counts were read from, for messages."""


def read_collection(
    urls: Sequence[str], split: str | None = None, opener: str | None = None
) -> Collection:
    """What a collection says of itself; no shard is read.

    Args:
        urls: a folder, a ``.json`` file, or patterns of shards; local or remote.
        split: which part, such as ``train``, of a collection that has several.
        opener: ``module:function`` that opens remote files, as ``data.opener``.

    Raises:
        ConfigError: it has several splits and none, or another, is named.
        DataError: it does not say its counts, or says what cannot be.
    """
    read, url = partial(_read, opener=opener), urls[0]
    if len(urls) > 1:
        return _by_stats(urls, read)
    if shown(url).endswith(".json"):
        folder, source = _folder_of(url), url
        content = _json(read(url), url)
    elif _is_folder(url):
        folder = url
        found = _first(url, read)
        if found is None:
            return _by_stats(urls, read)
        source, content = found
    else:
        return _by_stats(urls, read)
    shards = [
        shard._replace(location=_beside(folder, shard.location, source))
        for shard in _parse(content, source, split)
    ]
    if not shards:
        raise DataError(f"{shown(source)}: it names no shards", cure="check what it holds")
    return Collection(shards, _classes(folder, read), shown(source))


def counted(
    urls: Sequence[str], samples_per_shard: int, fields: Fields, opener: str | None
) -> Collection:
    """Shards that all have the same number of samples, but the last, which is read to count its.

    Args:
        urls: a local folder, or patterns of shards.
        samples_per_shard: of every shard but the last.
        fields: which files of a sample are its image and its label.
        opener: as in ``read_collection``.

    Raises:
        DataError: there are no such shards, or the last cannot be read.
    """
    *most, last = expand_shards(urls)
    with open_shard(last, opener) as stream:
        num_last = len(index_tar(stream, shown(last), fields).index)
    shards = [CountedShard(location, samples_per_shard) for location in most]
    classes = _classes(_folder_of(last), partial(_read, opener=opener))
    return Collection([*shards, CountedShard(last, num_last)], classes, "--samples-per-shard")


Read = Callable[[str], bytes]
"""From a path or URL to its content."""


def _read(url: str, opener: str | None) -> bytes:
    path = local_path(url)
    if path is None:
        return read_url(url, opener=opener, most_bytes=MOST_JSON_BYTES)
    try:
        return read_file(path, MOST_JSON_BYTES)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror})", cure="check the path"
        ) from error


def _is_folder(url: str) -> bool:
    path = local_path(url)
    return path.is_dir() if path is not None else not shown(url).endswith(".tar")


def _folder_of(url: str) -> str:
    path = local_path(url)
    return parent(url) if path is None else str(path.parent)


def _first(folder: str, read: Read) -> tuple[str, Any] | None:
    """The first file with counts, and its content; None: a local folder without one."""
    path = local_path(folder)
    names = INFO_NAMES if path is None else [name for name in INFO_NAMES if (path / name).exists()]
    for name in names:
        place = joined(folder, name)
        try:
            data = read(place)
        except NoAttemptsLeftError:
            raise
        except DataError as error:
            refused = error
            continue
        return place, _json(data, place)
    if path is None:
        raise DataError(
            f"{shown(folder)}: none of {', '.join(INFO_NAMES)} can be read there, the last one "
            f"because {refused.problem}",
            cure="name the .json file with the counts, or the shards by a pattern such as "
            "'URL/{00000..00099}.tar', with --samples-per-shard unless each has a _stats.json",
        ) from refused
    return None


def _by_stats(urls: Sequence[str], read: Read) -> Collection:
    """By img2dataset's file beside each shard."""
    shards, folder = expand_shards(urls), local_path(urls[0])
    for stats in folder.glob(f"*{_STATS}") if folder is not None and folder.is_dir() else ():
        tar = stats.with_name(stats.name.replace(_STATS, ".tar"))
        if not tar.exists():
            raise DataError(f"{tar}: is missing beside {stats.name}", cure="fetch it again")

    def count(shard: str) -> CountedShard:
        name = posixpath.basename(shown(shard)).removesuffix(".tar")
        place = joined(_folder_of(shard), f"{name}{_STATS}")
        return CountedShard(shard, _count(_json(read(place), place), "successes", place))

    try:
        with ThreadPoolExecutor(REQUESTS) as pool:
            counts = list(pool.map(count, shards))
    except DataError as error:
        raise DataError(
            f"{shown(urls[0])}: no counts are known here: no shard has a {_STATS} of its own "
            f"({error.problem}), and {', '.join(INFO_NAMES)} are looked for in a folder alone",
            cure="name the folder if it has one of them, or say how many samples a shard has by "
            "--samples-per-shard N, or count them with `rwp-dist shards index`",
        ) from error
    return Collection(counts, _classes(_folder_of(shards[0]), read), f"*{_STATS}")


def _json(data: bytes, place: str) -> Any:
    try:
        return parse_json(data)
    except ValueError as error:
        raise DataError(f"{shown(place)}: this is no JSON", cure="check the address") from error


def _parse(content: Any, place: str, split: str | None) -> list[CountedShard]:
    """The shards that the content of a file names, with their names as they are there."""
    if isinstance(content, dict) and content.get("splits") and isinstance(content["splits"], dict):
        return _of_split(_one_split(content["splits"], place, split), place)
    if isinstance(content, dict) and isinstance(content.get("shardlist"), list):
        if content.get("base_path"):
            raise DataError(
                f"{shown(place)}: its shards lie at base_path, not beside it",
                cure="put it beside them, or name them by a pattern with --samples-per-shard",
            )
        return [_of_shardlist(item, place) for item in content["shardlist"]]
    if isinstance(content, dict) and content and all(name.endswith(".tar") for name in content):
        return [CountedShard(name, _count(content, name, place)) for name in content]
    raise DataError(
        f"{shown(place)}: neither splits, nor a shardlist, nor counts of .tar files are in it",
        cure="name the .json file with the counts, or give --samples-per-shard",
    )


def _one_split(splits: dict[str, Any], place: str, split: str | None) -> Any:
    if split is None and len(splits) == 1:
        return next(iter(splits.values()))
    if split not in splits:
        raise ConfigError(
            f"{shown(place)} has the splits {', '.join(splits)}",
            key="--split",
            cure="name one of them",
        )
    return splits[split]


def _of_split(split: Any, place: str) -> list[CountedShard]:
    wrong = DataError(
        f"{shown(place)}: filenames and shard_lengths of a split are lists of equal length",
        cure="check the address, or give --samples-per-shard",
    )
    names, lengths = (split.get(k) if isinstance(split, dict) else None for k in _SPLIT)
    if not isinstance(names, list) or not isinstance(lengths, list):
        raise wrong
    if not all(isinstance(name, str) for name in names):
        raise wrong
    expanded = [shard for name in names for shard in expand_braces(name)]
    if len(expanded) != len(lengths):
        raise wrong
    return [
        CountedShard(name, _checked(length, place))
        for name, length in zip(expanded, lengths, strict=True)
    ]


def _of_shardlist(item: Any, place: str) -> CountedShard:
    name = item.get("url") if isinstance(item, dict) else None
    if not isinstance(name, str):
        raise DataError(f"{shown(place)}: a shard has no url", cure="check the address")
    size = item.get("filesize")
    return CountedShard(
        name, _count(item, "nsamples", place), None if size is None else _checked(size, place)
    )


def _count(content: Any, key: str, place: str) -> int:
    return _checked(content.get(key) if isinstance(content, dict) else None, place)


def _checked(number: Any, place: str) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or not 0 < number < 2**53:
        raise DataError(
            f"{shown(place)}: a count or size is {number!r:.40}, not a whole number from 1",
            cure="check the address, or give --samples-per-shard",
        )
    return number


def _beside(folder: str, name: str, place: str) -> str:
    """The location of a shard that a file in a folder names."""
    local = local_path(folder)
    base = (shown(folder) if local is None else str(local.resolve())).rstrip("/") + "/"
    inner = name.removeprefix(base)
    parts = inner.split("/")
    if "://" in inner or inner.startswith("/") or ".." in parts or not inner.isprintable():
        raise DataError(
            f"{shown(place)}: names {shown(name)!r:.200}, which does not lie beside it",
            cure="if that is meant, name the shards by a pattern with --samples-per-shard",
        )
    if local is not None:
        return str(local / inner)
    return joined(folder, inner)


def _classes(folder: str, read: Read) -> tuple[str, ...] | None:
    place = joined(folder, CLASSES_NAME)
    path = local_path(place)
    if path is not None and not path.exists():
        return None
    try:
        data = read(place)
    except NoAttemptsLeftError:
        raise
    except DataError:  # there is none
        return None
    try:
        return tuple(name for line in text_lines(data) if (name := line.strip())) or None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{shown(place)}: this is no text in UTF-8", cure="save it as such, or remove it"
        ) from error
