"""Where the files of a run are: paths that mean the same from everywhere, on disks that answer."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rwp_dist.base import disk
from rwp_dist.base.errors import ConfigError, DataError, RunDirError, RwpError
from rwp_dist.base.urls import local_path
from rwp_dist.config.tree import Settings
from rwp_dist.config.types import ABSOLUTE, LIBRARIES


def with_absolute_paths(settings: Settings) -> Settings:
    """The settings with every path made absolute; addresses stay as they are."""
    return Settings.model_validate(settings.model_dump(by_alias=True), context=ABSOLUTE)


def unreachable_places(runs: Sequence[Settings], *, data: bool = True) -> list[RwpError]:
    """An error for each place of some runs that this machine cannot look at, or not in time.

    Args:
        runs: their settings.
        data: look at places of data, too.
    """
    keys: dict[Path, str] = {}
    for settings in runs:
        for key, path in _places(settings):
            if data or key == "run.dir":
                keys.setdefault(path, key)
    return [
        _unreachable(keys[path], path, error)
        for path, error in disk.unreachable(keys).items()
        # Of data that are there and not as they should be, those who read them say more.
        if keys[path] == "run.dir" or error.errno not in disk.REFUSED
    ]


def _places(settings: Settings) -> Iterator[tuple[str, Path]]:
    s, d = settings, settings.data
    yield "run.dir", Path(str(s.run.dir))
    train = [("data.mix", place) for place in d.mix] or [("data.train", d.train)]
    named = [*train, ("data.val", d.val)]
    for key, weights in (("model.init", s.model.init), ("loss.teacher", s.loss.teacher)):
        if weights and not weights.startswith(LIBRARIES):
            named.append((key, weights))
    local = [(key, path) for key, place in named if (path := local_path(place)) is not None]
    yield from local
    if len(local) < len(named):
        yield "data.cache_dir", Path(d.cache_dir)


def _unreachable(key: str, path: Path, error: OSError) -> RwpError:
    problem = f"{path} cannot be looked at ({error.strerror or error})"
    kind: type[RwpError] = RunDirError if key == "run.dir" else DataError
    kind = ConfigError if error.errno in disk.REFUSED else kind
    return kind(problem, key=key, cure=disk.cure_of(error, f"set {key} to"))
