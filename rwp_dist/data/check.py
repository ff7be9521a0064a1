"""Whether the data of a run are there and fit its settings, before anything is started.

Imports no torch.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from rwp_dist.base.errors import ConfigError, DataError
from rwp_dist.base.urls import local_path
from rwp_dist.config import Settings, Split
from rwp_dist.data.chosen import (
    KEYS,
    QUICK,
    Key,
    check_classes,
    identity_of_manifests,
    manifest_of,
    mixed_classes,
    plan_of_manifests,
    setting_of,
    sources_of,
    unknown_labels,
)
from rwp_dist.data.classes import notes
from rwp_dist.data.dataset import load_dataset
from rwp_dist.data.format.manifest import Manifest


class Problem(NamedTuple):
    """What is wrong, and the settings that take part in it."""

    error: ConfigError
    keys: tuple[str, ...]


class DataCheck:
    """Looks at the data sets of runs, at each of them once."""

    def __init__(self, *, elsewhere: bool = False) -> None:
        """
        Args:
            elsewhere: the runs train on other machines, and perhaps much later. So data sets that
                are not here may be there, and of those that are, shards are looked at too.
        """
        self.elsewhere = elsewhere
        self.warnings: dict[str, None] = {}
        """What may keep a run from starting, and is not known here; each once, in order."""
        self.damaged: list[DataError] = []
        """Of shards that are here and not what their manifest says."""
        self._latest: dict[Key, list[Manifest]] = {}
        self._seen: dict[tuple[object, ...], Manifest | ConfigError | None] = {}

    def problems(self, settings: Settings, split: Split | None) -> Iterator[Problem]:
        """Everything that is wrong with the data of a run; ``split`` if its batch can be split."""
        manifests = self._latest = dict[Key, list[Manifest]]()
        for key in KEYS:
            found = [self._manifest(settings, key, source) for source in sources_of(settings, key)]
            for error in found:
                if isinstance(error, ConfigError):
                    yield Problem(error, (key, setting_of(settings, key), "data.mix"))
            there = [manifest for manifest in found if isinstance(manifest, Manifest)]
            for manifest in there:
                if error := self._labels(manifest, settings.model.num_classes):
                    yield Problem(error, ("model.num_classes", key, "data.mix"))
            if len(there) == len(found):
                manifests[key] = there
        try:
            classes = {key: mixed_classes(there) for key, there in manifests.items()}
            if len(classes) == len(KEYS):
                train, val = classes.values()
                check_classes(train, val)
                if split is not None:
                    self.warnings |= dict.fromkeys(map(str, notes(settings, split, train, val)))
        except ConfigError as error:
            yield Problem(error, ("data",))
        if "data.train" in manifests:
            try:
                _check_plan(settings, manifests["data.train"])
            except ConfigError as error:
                yield Problem(error, ("data", "batch.global"))

    def identity(self) -> dict[str, str]:
        """What tells the data of the run that was looked at last, as far as they could be read."""
        try:
            return identity_of_manifests(self._latest)
        except ConfigError:  # labels of a mixture, which ``problems`` has
            return {}

    def _manifest(self, settings: Settings, key: Key, source: str) -> Manifest | ConfigError | None:
        """What is there; None: not here, but perhaps where the run trains."""
        name = setting_of(settings, key)

        def look() -> Manifest | ConfigError | None:
            if self.elsewhere and _is_nothing(source):
                self.warnings[
                    f"{source} is not there on this machine; a job whose nodes lack it as well "
                    "fails. data.train and data.val say where shards are."
                ] = None
                return None
            try:
                return manifest_of(settings, key, source, QUICK)
            except ConfigError as error:
                return error
            except DataError as error:  # a run is more patient, and says so itself
                self.warnings[str(error)] = None
                return None

        return self._once((name, source, settings.data.opener), look)

    def _labels(self, manifest: Manifest, num_classes: int) -> ConfigError | None:
        """Whether labels are below ``num_classes``, as far as disks know."""
        if not manifest.is_local or not (self.elsewhere or manifest.num_classes > num_classes):
            return None

        def look() -> ConfigError | None:
            try:
                load_dataset([manifest], num_classes, None)
            except ConfigError as error:
                return error
            except DataError as error:
                self.damaged.append(error)
            return None

        error = self._once((manifest.location, num_classes), look)
        return error if isinstance(error, ConfigError) else None

    def _once(
        self, key: tuple[object, ...], look: Callable[[], Manifest | ConfigError | None]
    ) -> Manifest | ConfigError | None:
        if key not in self._seen:
            self._seen[key] = look()
        return self._seen[key]


def _is_nothing(source: str) -> bool:
    """Whether a path leads nowhere, or to an empty folder, where nodes may mount a disk."""
    path = local_path(source)
    if path is None or "{" in source:
        return False
    try:
        return not path.exists() or (path.is_dir() and not any(path.iterdir()))
    except OSError:
        return False


def _check_plan(settings: Settings, manifests: Sequence[Manifest]) -> None:
    """Refuse data that do not give a whole batch, or not the classes to balance.

    Raises:
        ConfigError: so it is.
    """
    if settings.data.sampling == "balanced" and any(m.fields is not None for m in manifests):
        raise unknown_labels(settings)
    # The samples of balanced classes are at most as many as those of everything.
    plan_of_manifests(settings, manifests)
