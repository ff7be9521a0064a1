"""Index and manifest for tars that exist; the tars stay as and where they are."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rwp_dist.base.errors import DataError
from rwp_dist.base.files import read_lines
from rwp_dist.base.urls import shown
from rwp_dist.data.format.index import index_tar
from rwp_dist.data.format.manifest import MANIFEST_NAME, Manifest, ShardEntry, check_names
from rwp_dist.data.format.sample import Fields
from rwp_dist.shards.location import (
    count_left_out,
    expand_shards,
    is_remote,
    open_shard,
    shard_size,
)
from rwp_dist.shards.parallel import run_jobs
from rwp_dist.shards.records import FinishedShard, Records, recipe_id


@dataclass(frozen=True)
class _Adoption:
    """One shard to index."""

    records: Records
    name: str
    """In the manifest."""
    location: str
    fields: Fields
    opener: str | None

    def run(self) -> ShardEntry:
        with open_shard(self.location, self.opener) as stream:
            return self.records.save(self.name, index_tar(stream, self.location, self.fields))

    def finished(self) -> FinishedShard | None:
        if not self.records.path(self.name).exists():
            return None  # and nobody asks a server for its size
        shard = self.records.finished(self.name, shard_size(self.location, self.opener))
        # An earlier version took another image of a sample with several.
        return None if shard is None or shard.left_out is None else shard


def index_shards(
    patterns: Sequence[str],
    out: Path | None = None,
    *,
    label_key: str | None = None,
    image_key: str | None = None,
    opener: str | None = None,
    classes: Sequence[str] | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
    left_out: Counter[str] | None = None,
) -> Manifest:
    """Read each shard once, and write an index for each and one manifest.

    A call that was killed is repeated to continue; it reads only shards without a good index.

    Args:
        patterns: folders, files, URLs that training can read, or brace patterns of them.
        out: folder for the indexes and the manifest; None: beside the shards.
        label_key: the field of each ``.json`` that holds the label; None: labels are in ``.cls``.
        image_key: extensions of the image, the preferred one first, such as ``png``; None: as
            webdataset's usual pipelines, ``jpg`` before ``png``.
        opener: ``module:function`` that opens remote shards, as ``data.opener``.
        classes: names of the labels; None: those of a manifest that is already there.
        workers: number of processes.
        progress: called with the numbers of finished shards and of all shards.
        left_out: gets the number of files that are in no sample, by kind.

    Raises:
        DataError: a shard is damaged, cut short or no tar; a sample has no label; the shards lie in
            several places and ``out`` is None; or another command has not finished making them.
    """
    locations = expand_shards(patterns)
    folder = _folder(locations, out)
    names = [_name(location, folder) for location in locations]
    check_names(names)
    fields = Fields(label_key, image_key)
    # Each shard has a recipe of its own, because it does not depend on the others.
    all_jobs = [
        _Adoption(
            Records(folder, _recipe(name, fields)),
            *(name, location, fields, opener),
        )
        for name, location in zip(names, locations, strict=True)
    ]
    for job in all_jobs:
        _refuse_unfinished(job)
    records = all_jobs[0].records
    records.make_folder()
    todo = [job for job in all_jobs if job.finished() is None]
    done = len(all_jobs) - len(todo)
    progress(done, len(all_jobs))
    for _ in run_jobs(_Adoption.run, todo, workers):
        done += 1
        progress(done, len(all_jobs))
    shards = [shard for job in all_jobs if (shard := job.records.finished(job.name, None))]
    assert len(shards) == len(all_jobs), "every shard was indexed"
    if left_out is not None:
        left_out.update(count_left_out(patterns))
        for shard in shards:
            left_out.update(shard.left_out or {})
    return records.write_manifest(shards, _classes(classes, folder, shards))


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


def _name(location: str, folder: Path) -> str:
    """The shard's name in the manifest: relative if it lies beside it, and without secrets."""
    if is_remote(location):
        return shown(location)
    path = Path(location)
    return path.name if path.parent.resolve() == folder.resolve() else str(path.resolve())


def _recipe(name: str, fields: Fields) -> str:
    more = {} if fields.image_key is None else {"image_key": fields.image_key}
    return recipe_id(location=name, label_key=fields.label_key, **more)


def _refuse_unfinished(job: _Adoption) -> None:
    """Refuse shards of an interrupted command: their manifest would present a part as the whole."""
    places = {job.records.folder: job.name}
    if not is_remote(job.location):
        places[Path(job.location).parent] = Path(job.location).name
    for folder, name in places.items():
        if (folder / MANIFEST_NAME).exists():
            continue
        records = Records(folder, _recipe(name, job.fields))
        if records.has_other(name):
            raise DataError(
                f"{folder}: the command that was making these shards has not finished",
                cure="start it again; or, if these are all shards, remove "
                f"{records.records_folder} first",
            )


def _classes(
    classes: Sequence[str] | None, folder: Path, shards: Sequence[FinishedShard]
) -> Sequence[str] | None:
    """Names of the labels, if there is one for each."""
    needed = max(shard.num_classes for shard in shards)
    if classes is not None and needed > len(classes):
        raise DataError(
            f"{folder}: labels go up to {needed - 1}, but there are only {len(classes)} class "
            "names",
            cure="name every class",
        )
    if classes is not None or not (folder / MANIFEST_NAME).exists():
        return classes
    try:
        known = Manifest.load(folder).classes
    except DataError:  # the cure for a broken manifest is this very command
        return None
    return known if known is not None and len(known) >= needed else None
