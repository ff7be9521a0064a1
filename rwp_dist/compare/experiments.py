"""Which runs are seeds of one experiment: those of one label that also share their settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rwp_dist.compare.runs import Run
from rwp_dist.config import Affects, Settings, affects

FIRST = ("method", "batch", "optimizer", "schedule", "model")
"""Sections that experiments are told apart by, before any other."""


@dataclass(frozen=True)
class Experiment:
    """Runs that differ in their seed, not in what they try."""

    label: str
    """As its runs have it."""

    name: str
    """As a table shows it: the label, and what tells it from experiments of the same label."""

    runs: tuple[Run, ...]

    differs: dict[str, str]
    """Every setting, ``section.key``, in which it differs from experiments of the same label."""


def group(runs: Sequence[Run]) -> list[Experiment]:
    """Experiments, those of one label side by side."""
    kinds: dict[str, list[list[Run]]] = {}
    for run in runs:
        same_label = kinds.setdefault(run.label, [])
        for kind in same_label:
            if _same(run, kind[0]):
                kind.append(run)
                break
        else:
            same_label.append([run])
    return [found for label, same in kinds.items() for found in _name(label, same)]


def related(run: Run) -> dict[str, Any] | None:
    """Settings of a run that decide about its result, by ``section.key``; None if unknown.

    What an older run's file does not know yet has the default.
    """
    if run.settings is None:
        return None
    known = _flat(Settings().model_dump(by_alias=True, mode="json")) | _flat(run.settings)
    return {
        key: value
        for key, value in known.items()
        if affects(key) is Affects.RESULT and key != "run.seed"
    }


def _same(one: Run, other: Run) -> bool:
    return related(one) == related(other)


def _flat(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree has two levels: sections, and a few values beside them."""
    flat: dict[str, Any] = {}
    for section, value in tree.items():
        if isinstance(value, dict):
            flat |= {f"{section}.{key}": item for key, item in value.items()}
        elif section != "variant":
            flat[section] = value
    return flat


def _name(label: str, kinds: list[list[Run]]) -> list[Experiment]:
    if len(kinds) == 1:
        return [Experiment(label, label, tuple(kinds[0]), {})]
    settings = [related(kind[0]) for kind in kinds]
    known = [s for s in settings if s is not None]
    keys = [key for key in _keys(known) if len({_text(s.get(key)) for s in known}) > 1]
    # As few settings as tell all of them apart, the method's first.
    telling: list[str] = []
    for key in sorted(keys, key=_importance):
        if _num_kinds(known, [*telling, key]) > _num_kinds(known, telling):
            telling.append(key)
    found = []
    for kind, own in zip(kinds, settings, strict=True):
        if own is None:
            found.append(Experiment(label, f"{label}, settings unknown", tuple(kind), {}))
            continue
        parts = [f"{_short(key)} {_text(own.get(key))}" for key in telling]
        differs = {key: _text(own.get(key)) for key in sorted(keys, key=_importance)}
        found.append(Experiment(label, ", ".join([label, *parts]), tuple(kind), differs))
    return found


def _keys(settings: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for own in settings for key in own))


def _num_kinds(settings: Sequence[dict[str, Any]], keys: Sequence[str]) -> int:
    return len({tuple(_text(own.get(key)) for key in keys) for own in settings})


def _importance(key: str) -> int:
    section = key.partition(".")[0]
    return FIRST.index(section) if section in FIRST else len(FIRST)


def _short(key: str) -> str:
    """``sigma`` for the method's, ``batch`` for ``batch.global``, others in full."""
    section, _, last = key.partition(".")
    if section == "method" and last != "name":
        return last
    return section if last in ("name", "global") else key


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return "/".join(map(_text, value)) or "none"
    return "none" if value is None else str(value)
