"""Which data the settings name, and whether they fit each other, from manifests alone.

Imports no torch, so that the command line can refuse wrong data before it loads it.
"""

import os
from collections.abc import Mapping, Sequence
from math import gcd
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from rwp_dist.base.disk import REFUSED
from rwp_dist.base.errors import ConfigError, DataError
from rwp_dist.base.urls import shown
from rwp_dist.config import Settings
from rwp_dist.data.classes import Classes
from rwp_dist.data.dataset import Dataset, joined_id, load_manifest
from rwp_dist.data.format.joined import JoinedManifest
from rwp_dist.data.format.manifest import Manifest
from rwp_dist.data.plan import Plan
from rwp_dist.data.remote import OutOfReachError, Patience
from rwp_dist.data.selection import Balanced, Everything, Mixture, Selection
from rwp_dist.data.shared_lines import SharedLines
from rwp_dist.process.cgroup import cores

Key = Literal["data.train", "data.val"]
"""The setting that names a data set."""
KEYS: tuple[Key, ...] = get_args(Key)

ID_DIGITS = 16
"""Hexadecimal digits of the ids in an identity."""

QUICK = Patience(retries=1, stall_s=10.0)
"""A run is patient with a server; who only checks is not."""

MOST_WORKERS = 16
"""Of ``data.workers: auto``. So many decode some thousand images/s, more than a rank trains on, and
each takes memory for its batches and opens shards of its own."""


def sources_of(settings: Settings, key: Key) -> tuple[str, ...]:
    """Folders or URLs of the data; of all in ``data.mix``, which replaces ``data.train``."""
    if key == "data.val":
        return (settings.data.val,)
    return tuple(settings.data.mix) or (settings.data.train,)


def setting_of(settings: Settings, key: Key) -> str:
    """The setting that names these data: ``data.mix`` where it replaces ``data.train``."""
    return "data.mix" if key == "data.train" and settings.data.mix else key


def patience_of(settings: Settings) -> Patience:
    """How long a run waits for a server."""
    return Patience(settings.data.retries, stall_s=settings.data.stall_s)


def node_folder(settings: Settings) -> Path:
    """Where this node notes which data sets it has checked, and keeps indexes that it made."""
    return Path(settings.data.cache_dir) / "indexes"


def manifest_of(settings: Settings, key: Key, source: str, patience: Patience) -> Manifest:
    """The manifest of one of the data sets of ``key``.

    Raises:
        ConfigError: there is none, or it is not what this version reads.
        OutOfReachError: it cannot be read from here, or not now.
        DataError: the disk fails.
    """
    name = setting_of(settings, key)
    try:
        folder = node_folder(settings)
        return load_manifest(source, patience, settings.data.opener, key=name, folder=folder)
    except OutOfReachError:
        raise
    except DataError as error:
        cause = error.__context__
        if isinstance(cause, OSError) and cause.errno and cause.errno not in REFUSED:
            raise
        raise ConfigError(error.problem, key=error.key or name, cure=error.cure) from error


def manifests_of(settings: Settings, key: Key, patience: Patience | None = None) -> list[Manifest]:
    """The manifests of all data sets of ``key``; errors are those of ``manifest_of``."""
    patience = patience or patience_of(settings)
    return [manifest_of(settings, key, source, patience) for source in sources_of(settings, key)]


def classes_of(settings: Settings, key: Key) -> Classes:
    """The classes of the data sets of ``key``, from their manifests alone.

    Raises:
        ConfigError: a manifest is missing, or labels of a mixture do not mean the same.
    """
    return mixed_classes(manifests_of(settings, key))


def data_identity(settings: Settings) -> dict[str, Any]:
    """What tells the data of a run from others, by the keys of an identity; from manifests alone.

    Raises:
        ConfigError, DataError: as ``manifest_of``, or labels of a mixture do not mean the same.
    """
    return identity_of_manifests({key: manifests_of(settings, key) for key in KEYS})


def identity_of_manifests(manifests: Mapping[Key, list[Manifest]]) -> dict[str, Any]:
    """The same of manifests that are read already.

    Raises:
        ConfigError: labels of a mixture do not mean the same.
    """
    found = dict[str, Any]()
    for key, each in manifests.items():
        found[f"{key}.id"] = joined_id(each)[:ID_DIGITS]
        names = mixed_classes(each).names
        if key == "data.train" and names is not None:
            found["data.train.classes"] = list(names)
    return found


def mixed_classes(manifests: list[Manifest]) -> Classes:
    """The classes of the data sets of one key.

    Raises:
        ConfigError: labels of a mixture do not mean the same.
    """
    try:
        return Classes.of(manifests)
    except DataError as error:
        raise ConfigError(error.problem, key="data.mix", cure=error.cure) from error


def check_classes(train: Classes, val: Classes) -> None:
    """Refuse to evaluate on other classes than those of training.

    Raises:
        ConfigError: their labels do not mean the same.
    """
    try:
        train.joined(val)
    except DataError as error:
        raise ConfigError(error.problem, key="data.val", cure=error.cure) from error


def num_workers(settings: Settings, ranks_here: int) -> int:
    """Processes of each rank that read and decode, of ``ranks_here`` ranks on this node.

    auto: the cores that this process may use, shared by the ranks, without those on which the rank
    itself computes.
    """
    asked = settings.data.workers
    if asked != "auto":
        return asked
    return min(MOST_WORKERS, max(0, cores() // ranks_here - settings.run.threads))


def choose_selection(settings: Settings, dataset: Dataset) -> Selection:
    """Which samples an epoch consists of.

    Raises:
        ConfigError: it depends on labels that are not known yet.
    """
    if settings.data.mix:
        weights = tuple(settings.data.mix.values())
        return Mixture(dataset.counts, dataset.source, weights)
    if settings.data.sampling == "balanced":
        if dataset.lazy:
            raise unknown_labels(settings)
        (manifest,) = dataset.manifests
        assert isinstance(manifest, JoinedManifest), "its shards are not adopted"
        balanced = Balanced(dataset.counts, dataset.labels, manifest.num_present)
        # The node, because the folder may lie on a disk that nodes share; and a number of the way
        # in which lines are made.
        name = f"balanced-1-{os.uname().nodename}-{dataset.id[:ID_DIGITS]}"
        return SharedLines(balanced, node_folder(settings) / name)
    return Everything(dataset.counts)


def unknown_labels(settings: Settings) -> ConfigError:
    """The error of ``data.sampling`` with adopted shards."""
    return ConfigError(
        "balanced sampling needs all labels, and those of adopted shards are not known yet",
        key="data.sampling",
        cure=f"index all shards with `rwp-dist shards index {shown(settings.data.train)}`",
    )


def plan_of(settings: Settings, selection: Selection) -> Plan:
    """Which samples every step takes.

    Raises:
        ConfigError: there is not one whole batch.
    """
    d, batch, copies = settings.data, settings.batch.global_, settings.augment.repeats
    lanes = d.lanes or gcd(8, batch // copies)
    return Plan(selection, batch, lanes, d.window, settings.run.seed, d.pad_last, copies)


def plan_of_manifests(settings: Settings, manifests: Sequence[Manifest]) -> Plan:
    """The same from the manifests of all training data, where labels are not looked at.

    Raises:
        ConfigError: there is not one whole batch.
    """
    counts = np.concatenate([m.counts for m in manifests])
    numbers = np.repeat(np.arange(len(manifests)), [len(m.shards) for m in manifests])
    weights = tuple(settings.data.mix.values())
    return plan_of(settings, Mixture(counts, numbers, weights) if weights else Everything(counts))
