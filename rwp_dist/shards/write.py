"""Shards written in parallel: over processes, over the tasks of a job, and over attempts."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rwp_dist.base.errors import DataError
from rwp_dist.data.format.manifest import Manifest
from rwp_dist.shards.pack import ShardJob, Shrink, pack_shard
from rwp_dist.shards.parallel import run_jobs
from rwp_dist.shards.records import Records, local_size, recipe_id
from rwp_dist.shards.sources import Listing

SAMPLES_PER_SHARD = 1000
_CURE = "give an empty folder, or remove these first"

Progress = Callable[[int, int], None]
"""Called with samples finished by now and samples in all, of this part."""


@dataclass(frozen=True)
class WriteReport:
    """What was written."""

    num_samples: int
    """Of all shards, those of other parts too."""
    num_shards: int
    num_written: int
    """Shards that this call wrote; the others were there, or are another part's."""
    num_missing: int
    """Shards of other parts that are not finished yet."""
    manifest: Manifest | None
    """None as long as shards are missing."""


def write_shards(
    listing: Listing,
    out: Path,
    *,
    samples_per_shard: int | None = None,
    shard_bytes: int | None = None,
    seed: int = 0,
    shrink: Shrink | None = None,
    part: tuple[int, int] = (0, 1),
    workers: int = 1,
    progress: Progress = lambda done, total: None,
) -> WriteReport:
    """Write a source as shards ``OUT/<name of OUT>-000000.tar ...`` with indexes and a manifest.

    All samples are permuted by the seed first, because sources are sorted by class; then cut into
    shards that differ by one sample at most. The bytes depend on source, seed and sizes, not on
    workers or parts (re-encoded ones on Pillow's version too). Shards that are finished already
    are left alone, so a killed call is simply repeated.

    Args:
        samples_per_shard: the most a shard holds; 1,000 unless ``shard_bytes`` is given.
        shard_bytes: about this many bytes of source files per shard, before re-encoding.
        part: (k, n) writes the shards whose number modulo n is k; the part that finds all shards
            finished writes the manifest.

    Raises:
        DataError: the folder holds other shards, or a sample cannot be read.
    """
    order = np.random.default_rng(seed).permutation(len(listing.samples))
    cuts = _cut(listing, order, samples_per_shard, shard_bytes)
    prefix = out.resolve().name
    prefix = prefix if re.fullmatch(r"[A-Za-z0-9_-]+", prefix) else "shard"
    names = [f"{prefix}-{number:06d}.tar" for number in range(len(cuts))]
    recipe = recipe_id(
        version=1,
        seed=seed,
        num_shards=len(cuts),
        shrink=None if shrink is None else asdict(shrink),
        classes=listing.classes,
        source=_fingerprint(listing),
    )
    records = Records(out, recipe)
    _refuse_others(out, names)
    records.prepare(names, _CURE)

    own = range(part[0], len(cuts), part[1])
    todo = [k for k in own if not records.finished(names[k], local_size(out / names[k]))]
    total = sum(len(cuts[k]) for k in own)
    done = total - sum(len(cuts[k]) for k in todo)
    progress(done, total)
    jobs = (
        ShardJob(
            records=records,
            name=names[k],
            rows=cuts[k].tolist(),
            samples=[listing.samples[row] for row in cuts[k]],
            read=listing.read,
            shrink=shrink,
        )
        for k in todo
    )
    for entry in run_jobs(pack_shard, jobs, workers, preload=("webdataset",)):
        done += entry.num_samples
        progress(done, total)
    found = [records.finished(name, local_size(out / name)) for name in names]
    return WriteReport(
        num_samples=len(listing.samples),
        num_shards=len(cuts),
        num_written=len(todo),
        num_missing=found.count(None),
        manifest=records.complete(found, listing.classes),
    )


def _cut(
    listing: Listing,
    order: NDArray[np.int64],
    samples_per_shard: int | None,
    shard_bytes: int | None,
) -> list[NDArray[np.int64]]:
    """Rows of each shard."""
    if shard_bytes is not None:
        num_shards = -(-_source_bytes(listing) // shard_bytes)
    else:
        num_shards = -(-len(order) // (samples_per_shard or SAMPLES_PER_SHARD))
    return np.array_split(order, min(max(num_shards, 1), len(order)))


def _source_bytes(listing: Listing) -> int:
    try:
        return sum(
            sample.size if sample.size >= 0 else Path(sample.path).stat().st_size
            for sample in listing.samples
        )
    except OSError as error:
        raise DataError(
            f"{error.filename}: cannot be read ({error.strerror}); check the source."
        ) from error


def _fingerprint(listing: Listing) -> str:
    """Sha256 over names, kinds and labels: another list of samples would be other shards."""
    sha256 = hashlib.sha256()
    for sample in listing.samples:
        text = f"{sample.name}\0{sample.kind}\0{sample.label}\n"
        sha256.update(text.encode("utf-8", "surrogateescape"))
    return sha256.hexdigest()


def _refuse_others(out: Path, names: list[str]) -> None:
    """A stranger among the shards would be read by everybody who reads all tars of a folder."""
    for path in sorted(out.glob("*.tar")):
        if path.name not in names:
            raise DataError(f"{out}: there are other shards here (such as {path.name}); {_CURE}.")
