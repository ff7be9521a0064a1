"""Index and manifest for tars that somebody else made, which stay as and where they are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rwp_dist.base.errors import DataError
from rwp_dist.data.format.index import index_tar
from rwp_dist.data.format.manifest import MANIFEST_NAME, Manifest, ShardEntry, check_basenames
from rwp_dist.shards.opening import expand_shards, is_remote, open_shard, shard_size
from rwp_dist.shards.parallel import run_jobs
from rwp_dist.shards.records import Records, recipe_id


@dataclass(frozen=True)
class _Adoption:
    records: Records
    name: str
    location: str
    label_key: str | None
    opener: str | None


def index_shards(
    patterns: Sequence[str],
    out: Path | None = None,
    *,
    label_key: str | None = None,
    opener: str | None = None,
    classes: Sequence[str] | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Manifest:
    """Read shards once, from start to end, and write an index for each and one manifest.

    Started again after a kill, it reads only what it has not indexed yet.

    Args:
        patterns: folders, files, URLs that training can read, or brace patterns of them.
        out: where index files and manifest go; beside the shards, unless given.
        label_key: the field of each ``.json`` that holds the label; ``.cls`` unless given.
        opener: ``module:function`` that opens remote shards, as ``data.opener`` does.
        classes: names of the labels; those of a manifest that is there already, unless given.
        progress: called with shards finished by now and shards in all.

    Raises:
        DataError: a shard is damaged, cut short or no tar, a sample has no label, the shards lie in
            several places and no ``out`` is given, or they are a part of what another command was
            to make.
    """
    locations = expand_shards(patterns)
    folder = _folder(locations, out)
    names = [_name(location, folder) for location in locations]
    check_basenames(names)
    # What the folder held before is no matter here, so each shard is a recipe of its own.
    records = [Records(folder, recipe_id(location=name, label_key=label_key)) for name in names]
    for name, location in zip(names, locations, strict=True):
        _refuse_unfinished(name, location, folder, label_key)
    records[0].make_folder()
    todo = [
        _Adoption(record, name, location, label_key, opener)
        for record, name, location in zip(records, names, locations, strict=True)
        if not record.finished(name, _size(record, name, location, opener))
    ]
    done = len(names) - len(todo)
    progress(done, len(names))
    for _ in run_jobs(_adopt, todo, workers):
        done += 1
        progress(done, len(names))
    found = [record.finished(name, None) for record, name in zip(records, names, strict=True)]
    classes = _classes(classes, folder, found)
    manifest = records[0].complete(found, classes)
    assert manifest is not None, "every shard was indexed"
    return manifest


def load_class_names(path: Path) -> list[str]:
    """The name of label 0, 1, ... from the lines of a file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: this is no text file of class names; give another.") from error


def _adopt(job: _Adoption) -> ShardEntry:
    with open_shard(job.location, job.opener) as stream:
        return job.records.save(job.name, index_tar(stream, job.location, job.label_key))


def _refuse_unfinished(name: str, location: str, folder: Path, label_key: str | None) -> None:
    """A part of a data set whose writing was broken off would be taken for all of it."""
    places = {folder: name}
    if not is_remote(location):
        places[Path(location).parent] = Path(location).name
    for place, known_as in places.items():
        if (place / MANIFEST_NAME).exists():
            continue
        records = Records(place, recipe_id(location=known_as, label_key=label_key))
        if records.has_other(known_as):
            raise DataError(
                f"{place}: the command that was making these shards has not ended: start it again; "
                f"or, to take what is there for all of it, remove {records.path('').parent} first."
            )


def _folder(locations: Sequence[str], out: Path | None) -> Path:
    if out is not None:
        return out
    if any(is_remote(location) for location in locations):
        raise DataError(f"{locations[0]}: this is remote; say where its index goes with --out.")
    parents = {Path(location).parent for location in locations}
    if len(parents) > 1:
        first, second = sorted(map(str, parents))[:2]
        raise DataError(
            f"{first} and {second}: the shards lie in several folders; index each by itself, or "
            "give one --out for all."
        )
    return parents.pop()


def _name(location: str, folder: Path) -> str:
    """The shard's name in the manifest: relative if it lies beside it."""
    if is_remote(location):
        return location
    path = Path(location)
    return path.name if path.parent.resolve() == folder.resolve() else str(path.resolve())


def _size(record: Records, name: str, location: str, opener: str | None) -> int | None:
    """The shard's size now; for one that was never recorded nobody is asked."""
    if not record.path(name).exists():
        return -1
    return shard_size(location, opener)


def _classes(
    classes: Sequence[str] | None,
    folder: Path,
    found: Sequence[tuple[ShardEntry, int] | None],
) -> Sequence[str] | None:
    """Names of the labels, if there is one for each."""
    needed = max(shard[1] for shard in found if shard is not None)
    if classes is not None and needed > len(classes):
        raise DataError(
            f"{folder}: labels go up to {needed - 1}, but there are only {len(classes)} class "
            "names; name every class."
        )
    if classes is not None or not (folder / MANIFEST_NAME).exists():
        return classes
    try:
        known = Manifest.load(folder).classes
    except DataError:  # the cure for a broken manifest is this very command
        return None
    return known if known is not None and len(known) >= needed else None
