"""Every setting for a person to read: what its value may be, its default and its meaning."""

import textwrap
from collections.abc import Iterator, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from annotated_types import Ge, Gt, Le, Lt

from rwp_dist.config.keys import Key, known_keys
from rwp_dist.config.types import Affects

ON_RESUME = {
    Affects.NOTHING: "may change, and every update stays the same",
    Affects.PLACE: "may change, if the same data are there",
    Affects.ROUNDING: "may change, and updates are rounded otherwise",
    Affects.SPLIT: "may change, as the number of ranks may",
    Affects.EVALUATION: "may change, and what is measured of the same run is another",
    Affects.RESULT: "stays: another value is another run",
}
"""What of a setting a run may change that goes on."""

WORDS = {int: "a whole number", float: "a number", str: "text", NoneType: "null", Any: "anything"}
WIDTH = 96
GUARD = 1e9
"""Larger limits are there against slips alone."""


def describe_settings() -> Iterator[str]:
    """A paragraph for each setting, in the order of the tree."""
    for key in known_keys().values():
        yield "\n".join(_lines(key))


def _lines(key: Key) -> Iterator[str]:
    field = key.field
    default = field.get_default()
    rows = {
        "value": _values(field.annotation, field.metadata),
        "default": "see below" if field.default_factory else _written(default),
        "resumed": ON_RESUME[key.affects],
    }
    yield key.name
    for title, text in rows.items():
        yield textwrap.fill(
            text, WIDTH, initial_indent=f"    {title:9}", subsequent_indent=" " * 13
        )
    yield textwrap.fill(key.meaning, WIDTH, initial_indent="    ", subsequent_indent="    ")


def _values(kind: Any, limits: Sequence[Any] = ()) -> str:
    """What a value of a type may be, such as ``a number, 0 to 1``."""
    parts = get_args(kind)
    if get_origin(kind) is Annotated:
        inner, *more = parts
        nested = [limit for item in more for limit in getattr(item, "metadata", [item])]
        return _values(inner, [*nested, *limits])
    if get_origin(kind) in (Union, UnionType):
        return ", or ".join(_values(part, limits) for part in parts)
    if get_origin(kind) is Literal:
        return " | ".join(map(str, parts))
    if get_origin(kind) is tuple and parts[-1] is not ... and len(set(parts)) > 1:
        return f"a list of {len(parts)}: {'; '.join(map(_values, parts))}"
    if get_origin(kind) is tuple:
        count = "" if parts[-1] is ... else f" of {len(parts)}"
        return f"a list{count}, each {_values(parts[0])}"
    if get_origin(kind) is dict:
        return f"a mapping, each value {_values(parts[1])}"
    if kind is bool:
        return "true | false"
    return ", ".join([WORDS[kind], *(_range(limits) if kind in (int, float) else ())])


def _range(limits: Sequence[Any]) -> Iterator[str]:
    """Limits in words; of several of a kind the last is the closest. Guards are left out."""
    found = {type(limit): limit for limit in limits}
    least, most = found.get(Ge), found.get(Le)
    most = most if most and most.le < GUARD else None
    if least and most:
        yield f"from {least.ge:g} to {most.le:,.15g}"
        return
    if Gt in found:
        yield f"above {found[Gt].gt:g}"
    elif least:
        yield f"{least.ge:g} or more"
    if Lt in found and found[Lt].lt < GUARD:
        yield f"below {found[Lt].lt:g}"
    elif most:
        yield f"at most {most.le:,.15g}"


def _written(value: Any) -> str:
    """A value as a file has it."""
    value = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")
