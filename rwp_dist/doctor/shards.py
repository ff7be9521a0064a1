"""The data: manifests and indexes are there, a shard can be read, and how fast."""

from collections.abc import Iterator

from rwp_dist.base import checksum
from rwp_dist.base.errors import DataError
from rwp_dist.config import Settings
from rwp_dist.data.dataset import Dataset
from rwp_dist.data.open import open_dataset
from rwp_dist.data.remote.source import Patience, local_path, open_url, shown
from rwp_dist.doctor import disks
from rwp_dist.doctor.case import Case
from rwp_dist.doctor.finding import Finding
from rwp_dist.doctor.speed import images_per_second
from rwp_dist.tracking.console import count, size

GROUP = "data"

RETRIES = 1
STALL_S = 10.0
"""A run is patient with a server; who asks whether it answers is not."""


def reachable(case: Case, sources: tuple[str, ...], name: str) -> Iterator[Finding]:
    """Manifest and indexes are whole and the first sample of a shard is what they say."""
    assert case.settings is not None
    settings = impatient(case.settings)
    cache, dataset = open_dataset(settings, sources)
    _read_first(settings, dataset)
    num_bytes = sum(shard.num_bytes or 0 for shard in dataset.shards)
    yield Finding(
        GROUP,
        name,
        "ok",
        f"{dataset.num_samples:,} images, {len(dataset.shards):,} shards, {size(num_bytes)}: "
        f"{', '.join(shown(source) for source in sources)}",
        "",
        {
            "samples": dataset.num_samples,
            "shards": len(dataset.shards),
            "bytes": num_bytes,
        },
    )
    if cache is not None:
        remote = [s.num_bytes or 0 for s in dataset.shards if local_path(s.url) is None]
        yield from disks.cache_room(settings, sum(remote))


def speed(case: Case) -> Iterator[Finding]:
    """Images a second that the cores of this machine can read, decode and augment."""
    assert case.settings is not None
    found = images_per_second(impatient(case.settings))
    yield Finding(
        GROUP,
        "speed",
        "ok",
        f"{count(found['images_per_s'])} images/s on this machine's {found['cores']} cores, "
        f"{count(found['images_per_s_core'])} on one (decoder {found['decoder']})",
        "",
        found,
    )
    if found["bad"]:
        yield Finding(
            GROUP,
            "unreadable images",
            "warning",
            f"{found['bad']} of {found['images']} in {shown(found['shard'])}",
            "See which ones and why: rwp-dist shards verify.",
        )


def impatient(settings: Settings) -> Settings:
    """The same settings, but a server gets two attempts and some seconds."""
    data = settings.data
    quick = {
        "retries": min(data.retries, RETRIES),
        "stall_s": min(data.stall_s, STALL_S),
    }
    return settings.model_copy(update={"data": data.model_copy(update=quick)})


def _read_first(settings: Settings, dataset: Dataset) -> None:
    """Compare the checksum of the first sample of the first shard, by a read of its bytes alone."""
    shard, row = dataset.shards[0], dataset.index[0]
    patience = Patience(settings.data.retries, stall_s=settings.data.stall_s)
    data = open_url(
        shard.url,
        int(row["offset"]),
        int(row["size"]),
        patience=patience,
        opener=settings.data.opener,
    )
    if checksum.crc32(data) != int(row["crc32"]):
        raise DataError(
            f"{shown(shard.url)}: its first image is not the one of its index; restore the shard, "
            "or index it again with `rwp-dist shards index`."
        )
