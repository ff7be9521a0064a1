"""Write a source as shards, in several processes, tasks of a job, and attempts."""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwp_dist.base.files import write_text
from rwp_dist.shards.pack import ShardJob, pack_shard, still_finished, too_many
from rwp_dist.shards.parallel import run_jobs
from rwp_dist.shards.preprocess import Preprocess
from rwp_dist.shards.records import FinishedShard, Records, recipe_id
from rwp_dist.shards.sources import Listing

SAMPLES_PER_SHARD = 1000
BAD_NAME = "bad_samples.tsv"
"""Beside the shards: name of each image that was left out, a tab, and why."""

Progress = Callable[[int, int], None]
"""Called with the numbers of samples that are finished and of all samples of this part."""


@dataclass(frozen=True)
class WriteReport:
    """What was written."""

    num_samples: int
    """Of all shards, including those of other parts."""
    num_shards: int
    num_missing: int
    """Shards of other parts that are not finished yet. 0: the manifest is written."""
    num_kept: int = 0
    """Shards of this part that were finished already."""
    num_stale: int = 0
    """Shards of this part that were made anew, because their images had changed."""
    num_bad: int = 0
    """Images left out of the shards that are finished, listed in ``BAD_NAME``."""
    num_unoriented: int = 0
    """Images in the shards that are finished with an orientation tag that is not applied."""


def write_shards(
    listing: Listing,
    out: Path,
    *,
    samples_per_shard: int | None = None,
    shard_bytes: int | None = None,
    seed: int = 0,
    preprocess: Preprocess | None = None,
    max_bad: int = 0,
    part: tuple[int, int] = (0, 1),
    workers: int = 1,
    progress: Progress = lambda done, total: None,
) -> WriteReport:
    """Write a source as shards ``OUT/<name of OUT>-000000.tar ...`` with indexes and a manifest.

    Sources are sorted by class, so all samples are shuffled first. Then they are cut into shards
    whose lengths differ by at most one. The bytes depend only on the source, the seed and the
    sizes, not on workers and parts (with ``preprocess``, also on the version of Pillow).

    Finished shards are kept, so a call that was killed is repeated to continue. Those of this part
    whose images have changed are made anew.

    Args:
        listing: the source.
        out: a folder that is empty, or holds what an earlier call with the same arguments wrote.
        samples_per_shard: the most that a shard holds; 1,000 unless ``shard_bytes`` is given.
        shard_bytes: about this many bytes of source files per shard, before preprocessing.
        seed: of the order.
        preprocess: what to change in images.
        max_bad: most images to leave out because they cannot be read. With 1 or more, every image
            is decoded to find out.
        part: (k, n) writes the shards whose number modulo n is k. The part that finds all shards
            finished writes the manifest.
        workers: number of processes.
        progress: see ``Progress``.

    Raises:
        DataError: the folder holds other shards, or more samples than ``max_bad`` cannot be read.
    """
    cuts = _cut(listing, seed, samples_per_shard, shard_bytes)
    names = _names(out, len(cuts))
    records = Records(out, _recipe(listing, seed, len(cuts), preprocess))
    finished = records.finished_of(names, "give an empty folder, or remove these first")
    records.make_folder()
    own = range(part[0], len(names), part[1])
    _remove_leftovers(out, [names[number] for number in own])

    def jobs(numbers: Iterable[int]) -> Iterator[ShardJob]:
        """Made one by one, because each holds a list of its samples."""
        for number in numbers:
            yield ShardJob(
                records=records,
                name=names[number],
                rows=(rows := cuts[number].tolist()),
                samples=[listing.samples[row] for row in rows],
                read=listing.read,
                preprocess=preprocess,
                max_bad=max_bad,
                finished=finished.get(names[number]),
            )

    before = [names[number] for number in own if names[number] in finished]
    kept = _unchanged(jobs(number for number in own if names[number] in finished), workers)
    stale = [name for name in before if name not in kept]
    for name in stale:
        records.forget(name)
        del finished[name]
    bad = _bad(finished.values(), max_bad)
    todo = [number for number in own if names[number] not in kept]
    total = sum(len(cuts[number]) for number in own)
    done = total - sum(len(cuts[number]) for number in todo)
    progress(done, total)
    for shard in run_jobs(pack_shard, jobs(todo), workers):
        left_out = _bad([shard], max_bad, len(bad))
        bad += left_out
        finished[shard.entry.name] = shard
        done += shard.entry.num_samples + len(left_out)
        progress(done, total)

    found = [
        # Other parts have gone on, and perhaps made a shard anew.
        finished[name] if number in own else records.finished_here(name)
        for number, name in enumerate(names)
    ]
    shards = [shard for shard in found if shard is not None]
    bad = _bad(shards, max_bad)
    _list_bad(out / BAD_NAME, bad)
    if len(shards) == len(names):
        records.write_manifest(shards, listing.classes)
    return WriteReport(
        num_samples=len(listing.samples) - len(bad),
        num_shards=len(names),
        num_missing=len(names) - len(shards),
        num_kept=len(kept),
        num_stale=len(stale),
        num_bad=len(bad),
        num_unoriented=sum(s.made_from.num_unoriented for s in shards if s.made_from),
    )


def _unchanged(jobs: Iterable[ShardJob], workers: int) -> set[str]:
    """Names of the finished shards whose images have not changed."""
    found = run_jobs(still_finished, jobs, workers)
    return {shard.entry.name for shard in found if shard is not None}


def _list_bad(path: Path, bad: Iterable[Sequence[str]]) -> None:
    """Write the names of images that were left out, and why; no file if there are none."""
    lines = [f"{name}\t{' '.join(why.split())}\n" for name, why in bad]
    if lines:
        write_text(path, "".join(lines))
    else:
        path.unlink(missing_ok=True)


def _remove_leftovers(folder: Path, names: Iterable[str]) -> None:
    """Remove the temporary files of killed writers of these shards; other parts write theirs."""
    own = set(names)
    for path in folder.glob(".*.tar.*.tmp"):
        if path.name[1 : path.name.index(".tar.") + len(".tar")] in own:
            path.unlink(missing_ok=True)


def _bad(shards: Iterable[FinishedShard], max_bad: int, before: int = 0) -> list[Sequence[str]]:
    """The images that shards leave out, after ``before`` others.

    Raises:
        DataError: they are more than ``max_bad``.
    """
    bad = [pair for shard in shards if shard.made_from for pair in shard.made_from.bad]
    if bad and before + len(bad) > max_bad:
        raise too_many(max_bad, bad[-1][1], before + len(bad))
    return bad


def _cut(
    listing: Listing, seed: int, samples_per_shard: int | None, shard_bytes: int | None
) -> list[NDArray[np.integer[Any]]]:
    """The shuffled rows of each shard."""
    order = np.random.default_rng(seed).permutation(len(listing.samples))
    if len(order) < 2**32:
        order = order.astype(np.uint32)  # held as long as the listing is
    if shard_bytes is not None:
        num_shards = -(-_source_bytes(listing) // shard_bytes)
    else:
        num_shards = -(-len(order) // (samples_per_shard or SAMPLES_PER_SHARD))
    return np.array_split(order, min(max(num_shards, 1), len(order)))


def _source_bytes(listing: Listing) -> int:
    return sum(
        sample.size if sample.size >= 0 else Path(sample.path).stat().st_size
        for sample in listing.samples
    )


def _names(out: Path, num_shards: int) -> list[str]:
    prefix = out.resolve().name
    prefix = prefix if re.fullmatch(r"[A-Za-z0-9_-]+", prefix) else "shard"
    return [f"{prefix}-{number:06d}.tar" for number in range(num_shards)]


def _recipe(listing: Listing, seed: int, num_shards: int, preprocess: Preprocess | None) -> str:
    # What is off is left out, so that ids of folders are those of versions without the option.
    changes = None if preprocess is None else {k: v for k, v in asdict(preprocess).items() if v}
    return recipe_id(
        version=1,
        seed=seed,
        num_shards=num_shards,
        shrink=changes,
        classes=listing.classes,
        source=_fingerprint(listing),
    )


def _fingerprint(listing: Listing) -> str:
    """Sha256 over names, kinds and labels: other samples give other shards."""
    sha256 = hashlib.sha256()
    for sample in listing.samples:
        text = f"{sample.name}\0{sample.kind}\0{sample.label}\n"
        sha256.update(text.encode("utf-8", "surrogateescape"))
    return sha256.hexdigest()
