"""The keys of the tree: ``method.sigma`` and its like, with their meaning and what they affect."""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from pydantic import BaseModel

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


def known_keys() -> Iterator[tuple[str, str]]:
    """Every key of the tree with its meaning."""
    for key in _keys().values():
        yield key.name, key.meaning


def affects(name: str) -> Affects:
    """What another value of a setting changes; of a setting that is not known: the result."""
    return _keys()[name].affects if name in _keys() else Affects.RESULT


def meaning(name: str) -> str:
    """A setting's docstring on one line; empty if there is no such setting."""
    return _keys()[name].meaning if name in _keys() else ""


@cache
def sections() -> frozenset[str]:
    """Names of the branches, such as ``method``."""
    return frozenset(name.rpartition(".")[0] for name in _keys()) - {""}


def is_within_setting(name: str) -> bool:
    """Whether a dotted name is a setting, or lies in a setting that is a mapping."""
    parts = name.split(".")
    return any(".".join(parts[:n]) in _keys() for n in range(1, len(parts) + 1))


def nearest(name: str) -> str | None:
    """The key that a wrong one probably means: the same section first, then the same last word."""
    names = list(_keys())
    last = name.rpartition(".")[2]
    same_last = [known for known in names if known.rpartition(".")[2] == last]
    by_last = {known.rpartition(".")[2]: known for known in names}
    found = (
        difflib.get_close_matches(name, names, n=1, cutoff=0.75)
        or same_last
        or [by_last[word] for word in difflib.get_close_matches(last, by_last, n=1, cutoff=0.7)]
    )
    return found[0] if found else None


@cache
def _keys() -> dict[str, Key]:
    return {key.name: key for key in _walk(Settings, "", Affects.RESULT)}


def _walk(model: type[BaseModel], prefix: str, inherited: Affects) -> Iterator[Key]:
    for name, field in model.model_fields.items():
        tags = [tag for tag in field.metadata if isinstance(tag, Affects)]
        affected = tags[0] if tags else inherited
        kind, full = field.annotation, f"{prefix}{field.alias or name}"
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _walk(kind, f"{full}.", affected)
        else:
            yield Key(full, " ".join((field.description or "").split()), affected)
