"""What a run is: its settings, data and code, as one flat record that is compared everywhere.

``identity_of`` computes it once an attempt. It is exchanged between the ranks before the first
step, and lies in ``identity.json``, in every checkpoint, in ``summary.json`` and in W&B's config.
Imports no torch.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from typing import Any

import rwp_dist
from rwp_dist.base.errors import ConfigError
from rwp_dist.base.text import shortened
from rwp_dist.base.urls import shown_tree
from rwp_dist.config import Affects, Settings, affects, load_settings, values_by_key
from rwp_dist.record.code import digest_of, version_of
from rwp_dist.record.directory import RunDir
from rwp_dist.record.weights import NO_TEACHER

Identity = dict[str, Any]
"""Values that JSON can hold, by key: every setting, and the keys of ``OTHERS``."""

OTHERS = {
    "data.train.id": Affects.RESULT,
    "data.train.classes": Affects.RESULT,
    "data.val.id": Affects.EVALUATION,
    "model.init.id": Affects.RESULT,
    "loss.teacher.id": Affects.RESULT,
    "ranks": Affects.SPLIT,
    "rwp-dist": Affects.CODE,
    "code": Affects.CODE,
    "commit": Affects.CODE,
    "torch": Affects.CODE,
    "deepspeed": Affects.CODE,
}
"""What an identity has besides settings, and what another value affects.

The ids change with any byte of any shard, wherever the shards are, and of the file that a run began
from. ``classes`` are the names of the classes, ``code`` is a digest of all source files, the user's
own too.
"""

DRAWN = "drawn"
"""``model.init.id`` of a run whose first weights are drawn from ``run.seed``."""

UPDATES = {Affects.RESULT, Affects.SPLIT, Affects.ROUNDING}
"""What changes the updates of a run, if only in their last bits."""

COMMIT_UNKNOWN = "commit.unknown"
"""Key of why the commit, or whether the code is as it was committed, is not known; missing
otherwise. It affects nothing."""

ENGINE = "engine"
"""Key of the engine and the ZeRO stage that train an attempt, in checkpoints and summaries alone:
``auto`` chooses them after the identity is agreed on. Engines differ in rounding."""

_SOMETIMES = {COMMIT_UNKNOWN: Affects.NOTHING, ENGINE: Affects.ROUNDING}

_TOLD = UPDATES | {Affects.EVALUATION, Affects.CODE}


def identity_of(
    settings: Settings, *, ranks: int, data: Mapping[str, Any], git: Mapping[str, Any]
) -> Identity:
    """The identity of one attempt at a run.

    Args:
        settings: of the run; secrets in URLs are left out.
        ranks: how many train.
        data: ``data.train.id`` and the other keys of data (``data.chosen.data_identity``).
        git: what is known of the code (``code.commit_of``).
    """
    software = {
        "rwp-dist": rwp_dist.__version__,
        "code": digest_of(settings),
        "commit": git.get("commit"),
        "torch": version_of("torch"),
        "deepspeed": version_of("deepspeed"),
    }
    unknown = {COMMIT_UNKNOWN: git["unknown"]} if "unknown" in git else {}
    return settings_identity(settings, ranks) | dict(data) | software | unknown


def settings_identity(settings: Settings, ranks: int | None) -> Identity:
    """The part that settings and the number of ranks tell; None: it is not known."""
    values: Identity = shown_tree(values_by_key(settings))
    del values["variant"]  # it only names values that other settings have
    values["loss.teacher.id"] = NO_TEACHER if settings.loss.teacher is None else None  # not known
    values["data.mix"] = list(settings.data.mix.values())  # the folders are places
    values["model.init.id"] = DRAWN if settings.model.init is None else None  # None: not known
    return values | {"ranks": ranks}


def identity_in(run_dir: RunDir) -> Identity | None:
    """The identity of the latest attempt in a run directory; None if nothing tells it.

    Of a run of an earlier version, it has what ``config.yaml`` and ``environment.json`` say.
    """
    known = run_dir.read_identity()
    if known is not None:
        return known
    try:
        settings = begun_settings(run_dir)
    except ConfigError:
        return None
    environment = run_dir.read_environment() or {}
    packages, git = (environment.get(name) for name in ("packages", "git"))
    packages = packages if isinstance(packages, dict) else {}
    git = git if isinstance(git, dict) else {}
    known = settings_identity(settings, environment.get("world_size"))
    return known | {
        "commit": git.get("commit"),
        "torch": packages.get("torch"),
        "deepspeed": packages.get("deepspeed"),
    }


def begun_settings(run_dir: RunDir) -> Settings:
    """Those of ``config.yaml``. Version 0.1 had no ``optimizer.no_decay`` and decayed all.

    Raises:
        ConfigError: the file cannot be read.
    """
    settings = load_settings(run_dir.config)
    if "no_decay" in settings.optimizer.model_fields_set:
        return settings
    optimizer = settings.optimizer.model_copy(update={"no_decay": ()})
    return settings.model_copy(update={"optimizer": optimizer})


def brief(identity: Identity) -> Identity:
    """The same with a digest in place of class names, of which there may be thousands."""
    names = identity.get("data.train.classes")
    if not isinstance(names, list):
        return identity
    digits = hashlib.sha256(_as_text(names).encode()).hexdigest()[:16]
    return identity | {"data.train.classes": digits}


def affects_of(key: str) -> Affects:
    """What another value of a key of an identity affects."""
    return _SOMETIMES.get(key) or OTHERS.get(key) or affects(key)


@dataclass(frozen=True)
class Difference:
    """A key that has different values in two identities."""

    key: str
    one: Any
    other: Any

    def sentence(self, here: str, there: str) -> str:
        """``optimizer.lr: 0.1 HERE, 0.2 THERE``."""
        one, other = self.one, self.other
        if self.key == "data.train.classes" and isinstance(one, list) and isinstance(other, list):
            one, other = _first_that_differs(one, other)
        one, other = _text(one), _text(other)
        return f"{self.key}: {one} {here}, {other} {there}"


def differences(
    one: Identity, other: Identity, kinds: Collection[Affects] = tuple(Affects)
) -> list[Difference]:
    """The keys with different values that affect one of ``kinds``, settings first.

    A value that one of them does not know differs from nothing. A setting that an older version did
    not have had its default.
    """
    one, other = complete(one), complete(other)
    return [
        Difference(key, one[key], other[key])
        for key in one
        if key in other
        and affects_of(key) in kinds
        and _as_text(one[key]) != _as_text(other[key])
        and not (key in OTHERS and None in (one[key], other[key]))
    ]


def changes(before: Identity, now: Identity) -> list[Difference]:
    """What changes in a run that goes on, but for places and what affects nothing."""
    return differences(before, now, _TOLD)


ALLOWED = "run.change"
"""Key of the settings that an attempt may change although they affect the result."""


def other_run(found: Sequence[Difference], now: Identity) -> str:
    """What of these differences makes ``now`` another run, in words; empty: nothing."""
    allowed = now.get(ALLOWED, ())
    refused = [d for d in found if affects_of(d.key) is Affects.RESULT and d.key not in allowed]
    return "; ".join(sentences(refused, "there", "here"))


def sentences(found: Sequence[Difference], here: str, there: str) -> list[str]:
    """A sentence for each difference."""
    return [difference.sentence(here, there) for difference in found]


def digest(identity: Identity, kinds: Collection[Affects]) -> bytes:
    """32 bytes that differ if identities differ in a key that affects one of ``kinds``."""
    values = {key: value for key, value in identity.items() if affects_of(key) in kinds}
    return hashlib.sha256(_as_text(values).encode()).digest()


def complete(identity: Identity) -> Identity:
    """The same with the defaults of settings that it lacks, if it has settings."""
    return _default_values() | identity if "run.seed" in identity else identity


@cache
def _default_values() -> Identity:
    defaults = settings_identity(Settings(), 1)
    del defaults["ranks"]
    return defaults


def _first_that_differs(one: list[Any], other: list[Any]) -> tuple[str, str]:
    """The label and the name of a class, in two lists of names."""
    for label, names in enumerate(zip_longest(one, other, fillvalue="nothing")):
        if names[0] != names[1]:
            return f"label {label} is {names[0]!r}", f"{names[1]!r}"
    return "the same", "the same"


def _as_text(value: Any) -> str:
    """What tells 1 from true and 1.0."""
    return json.dumps(value, sort_keys=True, default=str)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return shortened(value, 60) or "''"
    return shortened(json.dumps(value, ensure_ascii=False), 60)
