"""Index and manifest for tars that exist; the tars stay as and where they are."""

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rwp_dist.base.errors import DataError
from rwp_dist.base.files import read_lines
from rwp_dist.base.urls import local_path
from rwp_dist.data.checked import save_manifest
from rwp_dist.data.classes import Classes
from rwp_dist.data.format.index import index_tar, read_index
from rwp_dist.data.format.manifest import MANIFEST_NAME, Manifest, check_names
from rwp_dist.data.format.sample import Fields
from rwp_dist.shards.location import (
    count_left_out,
    expand_shards,
    is_remote,
    name_in_manifest,
    open_shard,
    shard_size,
    tars_in,
)
from rwp_dist.shards.parallel import run_jobs
from rwp_dist.shards.records import (
    FinishedShard,
    MadeFrom,
    Records,
    manifest_in,
    recipe_id,
    refuse_lost_shards,
    stat_id,
)


@dataclass(frozen=True)
class _Adoption:
    """One shard to index."""

    records: Records
    name: str
    """In the manifest."""
    location: str
    fields: Fields
    opener: str | None

    def run(self) -> FinishedShard:
        stat = self._stat()
        with open_shard(self.location, self.opener) as stream:
            indexed = index_tar(stream, self.location, self.fields)
        made_from = None if stat is None else MadeFrom(stat, indexed.sha256)
        return self.records.save(self.name, indexed, made_from)

    def finished(self) -> FinishedShard | None:
        if not self.records.path(self.name).exists():
            return None  # and nobody asks a server for its size
        shard = self.records.finished(self.name, shard_size(self.location, self.opener))
        # An earlier version took another image of a sample with several.
        if shard is None or shard.left_out is None:
            return None
        known = None if shard.made_from is None else shard.made_from.stat
        return shard if known == self._stat() else None

    def _stat(self) -> str | None:
        """Changes with every change of the tar; None: it is remote, and only its size is known."""
        path = local_path(self.location)
        return None if path is None else stat_id([path])


class IndexReport(NamedTuple):
    """What was indexed."""

    manifest: Manifest
    num_kept: int
    """Shards that were indexed before and have not changed."""
    num_stale: int
    """Shards that were indexed before and were read again, because they or the fields changed."""
    left_out: Mapping[str, int]
    """How many files are in no sample, by kind."""


def index_shards(
    patterns: Sequence[str],
    out: Path | None = None,
    *,
    label_key: str | None = None,
    image_key: str | None = None,
    opener: str | None = None,
    classes: Sequence[str] | None = None,
    classes_of: Manifest | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> IndexReport:
    """Read each shard once, and write an index for each and one manifest.

    A call that was killed is repeated to continue; it reads only shards without a good index, and
    local ones that have changed since, under the same size and date too.

    Args:
        patterns: folders, files, URLs that training can read, or brace patterns of them; or one
            folder with a manifest of adopted shards, which says what ``out`` and the keys do not.
        out: folder for the indexes and the manifest; None: beside the shards.
        label_key: the field of each ``.json`` that holds the label; None: labels are in ``.cls``.
        image_key: extensions of the image, the preferred one first, such as ``png``; None: as
            webdataset's usual pipelines, ``jpg`` before ``png``.
        opener: ``module:function`` that opens remote shards, as ``data.opener``.
        classes: names of the labels; None: those of a manifest that is already there.
        classes_of: the manifest of other shards whose classes these labels mean, in place of
            ``classes``. It has names of its classes.
        workers: number of processes.
        progress: called with the numbers of finished shards and of all shards.

    Raises:
        DataError: a shard is damaged, cut short or no tar; a sample has no label, or labels mean
            other classes; the shards lie in several places and ``out`` is None; or another command
            has not finished making them.
    """
    named = _named(patterns)
    asked = out or label_key or image_key or classes or classes_of
    if named is not None and not asked and (kept := _kept(named, opener)) is not None:
        save_manifest(named)
        return IndexReport(named, len(named.shards), 0, count_left_out(patterns) + kept)
    adopted = named if named is not None and named.fields is not None else None
    if adopted is not None and adopted.fields is not None:
        out = out or Path(adopted.location)
        label_key = label_key or adopted.fields.label_key
        image_key = image_key or adopted.fields.image_key
    locations = expand_shards(patterns) if adopted is None else adopted.shard_locations()
    folder = _folder(locations, out)
    known = named if named is not None and Path(named.location) == folder else manifest_in(folder)
    places = {folder, *filter(None, map(_folder_of, locations))}
    if classes_of is not None:
        others = [known, *map(manifest_in, places - {folder})]
        _refuse_other_classes(classes_of, [manifest for manifest in others if manifest])
        classes = classes_of.classes
    names = [name_in_manifest(location, folder) for location in locations]
    check_names(names, str(folder))
    refuse_lost_shards(known, names)
    fields = Fields(label_key, image_key)
    # Each shard has a recipe of its own, because it does not depend on the others.
    jobs = [
        _Adoption(
            Records(folder, _recipe(name, fields)),
            *(name, location, fields, opener),
        )
        for name, location in zip(names, locations, strict=True)
    ]
    finished = _finished(jobs, folder, places)
    records = jobs[0].records
    records.make_folder()
    num_kept = len(finished)
    todo = [job for job in jobs if job.name not in finished]
    num_stale = sum(job.records.path(job.name).exists() for job in todo)
    progress(num_kept, len(jobs))
    for done, shard in enumerate(run_jobs(_Adoption.run, todo, workers), num_kept + 1):
        finished[shard.entry.name] = shard
        progress(done, len(jobs))
    shards = [finished[name] for name in names]
    left_out = count_left_out(patterns)
    for shard in shards:
        left_out.update(shard.left_out or {})
    manifest = records.write_manifest(shards, _classes(classes, folder, known, shards))
    return IndexReport(manifest, num_kept, num_stale, left_out)


def _finished(
    jobs: Iterable[_Adoption], folder: Path, places: Iterable[Path]
) -> dict[str, FinishedShard]:
    """The shards that need not be read again, by name.

    Raises:
        DataError: another command has not finished making shards in one of ``places``.
    """
    unfinished = {place for place in places if not (place / MANIFEST_NAME).exists()}
    found = {}
    for job in jobs:
        if shard := job.finished():
            found[job.name] = shard
        _refuse_unfinished(job, unfinished - {folder} if shard else unfinished)
    return found


def load_class_names(path: Path) -> list[str]:
    """The names of label 0, 1, ... from the lines of a file; empty lines are no names.

    Raises:
        DataError: it cannot be read, or has no names.
    """
    try:
        names = [name for line in read_lines(path) if (name := line.strip())]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: this is no text file of class names", cure="give another"
        ) from error
    if not names:
        raise DataError(f"{path}: there are no class names here", cure="write one on each line")
    return names


def _named(patterns: Sequence[str]) -> Manifest | None:
    """The manifest in the one folder that is named."""
    folder = local_path(patterns[0]) if len(patterns) == 1 else None
    # The cure for a broken manifest is this very command.
    return None if folder is None else manifest_in(folder)


def _kept(named: Manifest, opener: str | None) -> Counter[str] | None:
    """What the shards of a manifest leave out, by kind, if none has changed since it was written.

    None: they are to be read, because one has changed or is new, or has no good index.
    """
    folder, left_out = Path(named.location), Counter[str]()
    own = {shard.name for shard in named.shards}
    if named.fields is not None or any(tar.name not in own for tar in tars_in(folder)):
        return None
    for shard in named.shards:
        location = named.shard_location(shard)
        path, index = local_path(location), Path(named.index_location(shard))
        records = Records(folder, _recipe(shard.name, Fields()))
        finished = _Adoption(records, shard.name, location, Fields(), opener).finished()
        if finished is not None and finished.entry == shard:
            left_out.update(finished.left_out or {})
            continue
        if records.path(shard.name).exists() and not records.has_other(shard.name):
            return None
        # `shards write` made it, or other keys were given: its record tells nothing of the tar.
        try:
            changed = path is not None and (
                path.stat().st_size != shard.num_bytes
                or path.stat().st_mtime_ns > index.stat().st_mtime_ns
            )
            data = read_index(index)
        except (OSError, DataError):
            return None
        if changed or hashlib.sha256(data).hexdigest() != shard.index_sha256:
            return None
    return left_out


def _folder(locations: Sequence[str], out: Path | None) -> Path:
    """Where the indexes and the manifest go."""
    if out is not None:
        return out
    if any(is_remote(location) for location in locations):
        raise DataError(f"{locations[0]}: this is remote", cure="say where its index goes by --out")
    parents = {Path(location).parent for location in locations}
    if len(parents) > 1:
        first, second = sorted(map(str, parents))[:2]
        raise DataError(
            f"{first} and {second}: the shards lie in several folders",
            cure="index each by itself, or give one --out for all",
        )
    return parents.pop()


def _folder_of(location: str) -> Path | None:
    """The folder of a local shard."""
    path = local_path(location)
    return None if path is None else path.parent


def _refuse_other_classes(classes_of: Manifest, others: Iterable[Manifest]) -> None:
    """Refuse labels that mean other classes by the manifests that are already there."""
    wanted = Classes.of([classes_of])
    for other in others:
        wanted.joined(Classes.of([other]))


def _recipe(name: str, fields: Fields) -> str:
    more = {} if fields.image_key is None else {"image_key": fields.image_key}
    return recipe_id(location=name, label_key=fields.label_key, **more)


def _refuse_unfinished(job: _Adoption, unfinished: Collection[Path]) -> None:
    """Refuse shards of an interrupted command: their manifest would present a part as the whole.

    ``unfinished`` are folders without a manifest.
    """
    places = {job.records.folder: job.name}
    if not is_remote(job.location):
        places[Path(job.location).parent] = Path(job.location).name
    for folder, name in places.items():
        if folder not in unfinished:
            continue
        records = Records(folder, _recipe(name, job.fields))
        if records.has_other(name):
            raise DataError(
                f"{folder}: the command that was making these shards has not finished",
                cure="start it again; or, if these are all shards, remove "
                f"{records.records_folder} first",
            )


def _classes(
    classes: Sequence[str] | None,
    folder: Path,
    known: Manifest | None,
    shards: Sequence[FinishedShard],
) -> Sequence[str] | None:
    """Names of the labels, if there is one for each; else those of the manifest that is there."""
    needed = max(shard.num_classes for shard in shards)
    if classes is not None and needed > len(classes):
        raise DataError(
            f"{folder}: labels go up to {needed - 1}, but there are only {len(classes)} class "
            "names",
            cure="name every class",
        )
    if classes is not None or known is None:
        return classes
    return known.classes if known.classes is not None and len(known.classes) >= needed else None
