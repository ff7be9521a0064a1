"""The keys of the tree: ``method.sigma`` and its like, with their meaning and what they affect."""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from rwp_dist.base.errors import ConfigError
from rwp_dist.config.tree import Settings
from rwp_dist.config.types import Affects


@dataclass(frozen=True)
class Key:
    """One setting of the tree."""

    name: str
    """Dotted, such as ``method.sigma``."""

    meaning: str
    """Its docstring, on one line."""

    affects: Affects
    """What another value changes."""

    is_mapping: bool
    """Whether its value has keys of its own: ``deepspeed.extra``, ``data.mix``."""

    field: FieldInfo
    """Its type, limits and default."""


@cache
def known_keys() -> dict[str, Key]:
    """Every setting by its dotted name, in the order of the tree."""
    return {key.name: key for key in _walk(Settings, "", Affects.RESULT)}


@cache
def sections() -> frozenset[str]:
    """Names of the branches, such as ``method``."""
    return frozenset(name.rpartition(".")[0] for name in known_keys()) - {""}


def affects(name: str) -> Affects:
    """What another value of a setting changes. For an unknown setting: the result."""
    key = known_keys().get(name)
    return key.affects if key else Affects.RESULT


def setting_of(name: str) -> Key | None:
    """The setting that a dotted name sets, or sets a part of: ``data.mix`` for ``data.mix.a``."""
    section, _, last = name.partition(".")
    top = f"{section}.{last.partition('.')[0]}" if section in sections() else section
    key = known_keys().get(top)
    return key if key and (key.name == name or key.is_mapping) else None


def unknown_setting(name: str) -> ConfigError:
    """The error of a key that does not exist, with the nearest one that does."""
    near = _nearest(name)
    cure = f"did you mean {near}?" if near else "`rwp-dist settings` lists all"
    return ConfigError("unknown setting", key=name, cure=cure)


def _nearest(name: str) -> str | None:
    """The same section is tried first, then the same last word in any section."""
    names = list(known_keys())
    last = name.rpartition(".")[2]
    by_last = {known.rpartition(".")[2]: known for known in names}
    found = (
        difflib.get_close_matches(name, names, n=1, cutoff=0.75)
        or [known for known in names if known.rpartition(".")[2] == last]
        or [by_last[word] for word in difflib.get_close_matches(last, by_last, n=1, cutoff=0.7)]
    )
    return found[0] if found else None


def _walk(model: type[BaseModel], prefix: str, inherited: Affects) -> Iterator[Key]:
    for name, field in model.model_fields.items():
        tags = [tag for tag in field.metadata if isinstance(tag, Affects)]
        affected = tags[0] if tags else inherited
        kind, full = field.annotation, f"{prefix}{field.alias or name}"
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _walk(kind, f"{full}.", affected)
        else:
            meaning = " ".join((field.description or "").split())
            yield Key(full, meaning, affected, get_origin(kind) is dict, field)
