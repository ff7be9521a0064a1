"""A YAML document of plain values: lists and mappings of text, numbers, true, false and null.

Plain values are read by YAML 1.2 (its core schema), not by PyYAML's 1.1: 010 is ten, 1e-3 is a
number; yes, off, 1:30 and 2024-01-01 are text. Beyond it, 1_000 is 1000. Writing quotes text that a
reader of either version would take for something else.

A settings file may come from anybody, so it is measured before it becomes a value: aliases that
stand for billions of values, circles and nesting without end are refused. So are keys that come
twice, of which YAML would silently take the last.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml

MOST_VALUES = 100_000
"""With every alias as often as it is used."""
MOST_DEPTH = 100
_TAG = "tag:yaml.org,2002:"
_WHOLE = "(?:[0-9]+|[1-9][0-9]{0,2}(?:_[0-9]{3})+)"
_PLAIN = {
    "null": ("~|null|Null|NULL|", "~nN"),
    "bool": ("true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (f"[-+]?(?:{_WHOLE}|0x[0-9a-fA-F]+|0o[0-7]+)", "-+0123456789"),
    "float": (
        f"[-+]?(?:[.][0-9]+|{_WHOLE}(?:[.][0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        "|[-+]?[.](?:inf|Inf|INF)|[.](?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
    "merge": ("<<", "<"),
}
"""What is no text unless it is quoted: a pattern for each kind, and how it may begin."""
_LIST_MARKS = re.compile(
    r"""(?<![^\s,:\[{])(?:'(?:[^']|'')*'|"(?:\\.|[^"\\])*")|[,\[\]{}]""", re.DOTALL
)
"""Quoted text, where it begins a value, and what separates values."""
_TAGS = {f"{_TAG}{kind}" for kind in (*_PLAIN, "str")}


def parse_document(text: str | bytes) -> Any:
    """The value of a YAML document; None if it is empty.

    Raises:
        yaml.YAMLError: it is not valid, holds more than plain values, or is too large.
    """
    with _opened(text) as (loader, node):
        return None if node is None else loader.construct_document(node)


def split_list(text: str) -> list[str]:
    """The values of ``1,[2,3],"a,b"``, each as it is written: a document of its own.

    PyYAML's own lists end at the question mark of an unquoted address.

    Raises:
        yaml.YAMLError: a value is missing (``1,,2``), or brackets are.
    """
    parts, begin, depth = [], 0, 0
    for found in _LIST_MARKS.finditer(text):
        mark = found[0]
        depth += (mark in "[{") - (mark in "]}")
        if depth < 0:
            break
        if depth == 0 and mark == ",":
            parts.append(text[begin : found.start()])
            begin = found.end()
    if depth:
        raise yaml.YAMLError("a bracket has no other half")
    parts = [part.strip() for part in (*parts, text[begin:])]
    if "" in parts:
        raise yaml.YAMLError("a value is missing")
    return parts


def dump_document(value: Any) -> str:
    """YAML that ``parse_document`` reads back as the same value."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def reason(error: yaml.YAMLError) -> str:
    """Why a document is not valid, on one line."""
    mark = getattr(error, "problem_mark", None)
    text = f"{error.problem}, in line {mark.line + 1}" if mark else str(error)  # type: ignore[attr-defined]
    return f"{' '.join(text.split()):.400}"


class _Loader(yaml.SafeLoader):
    """PyYAML's, with the plain values of YAML 1.2."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - the name is PyYAML's
    # Bytes of a path on the command line that are no UTF-8 are allowed, too.
    NON_PRINTABLE = re.compile(  # type: ignore[misc]
        "[^\t\n\r -~\x85\xa0-\ud7ff\udc80-\udcff\ue000-\ufffd\U00010000-\U0010ffff]"
    )


class _Dumper(yaml.SafeDumper):
    """PyYAML's, which knows the plain values of YAML 1.1, and those of 1.2 as well."""


for _kind, (_pattern, _first) in _PLAIN.items():
    _resolver = (f"{_TAG}{_kind}", re.compile(f"(?:{_pattern})$"))
    for _known in (_Loader, _Dumper):
        _known.add_implicit_resolver(*_resolver, [*_first, *([""] if _kind == "null" else [])])


def _number(loader: _Loader, node: yaml.ScalarNode) -> int | float:
    text = str(loader.construct_scalar(node)).replace("_", "").lower()
    if node.tag == f"{_TAG}float":
        return float(re.sub(r"^([-+]?)[.](inf|nan)$", r"\1\2", text))
    digits = text.lstrip("+-")
    base = {"0x": 16, "0o": 8}.get(digits[:2], 10)
    return int(text, base)


def _bool(loader: _Loader, node: yaml.ScalarNode) -> bool:
    text = str(loader.construct_scalar(node)).lower()
    if text not in ("true", "false"):
        raise ValueError(f"{text!r:.80} is neither true nor false")
    return text == "true"


for _kind in ("int", "float"):
    _Loader.add_constructor(f"{_TAG}{_kind}", _number)
_Loader.add_constructor(f"{_TAG}bool", _bool)


@contextmanager
def _opened(text: str | bytes) -> Iterator[tuple[_Loader, yaml.Node | None]]:
    """The only node of a document, of sensible size and without a key twice.

    Raises:
        yaml.YAMLError: see ``parse_document``.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is not None:
            _measure(node, {}, MOST_DEPTH)
            _refuse_twice(loader, node)
        yield loader, node
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    except ValueError as error:  # an integer of thousands of digits
        raise yaml.YAMLError(str(error)) from None
    finally:
        loader.dispose()


def _measure(node: yaml.Node, known: dict[int, int], depth: int) -> int:
    """How many values a node stands for; ``known`` has those of nodes that were measured before.

    Raises:
        yaml.YAMLError: there are too many, or they are nested too deeply.
    """
    if id(node) in known:
        return known[id(node)]
    if depth == 0:  # also of an alias that stands for a part of itself
        raise yaml.MarkedYAMLError(problem="it is nested too deeply", problem_mark=node.start_mark)
    inner: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        inner = node.value
    elif isinstance(node, yaml.MappingNode):
        inner = [part for pair in node.value for part in pair]
    elif node.tag not in _TAGS:
        raise yaml.MarkedYAMLError(problem=f"it has a {node.tag}", problem_mark=node.start_mark)
    total = 1 + sum(_measure(part, known, depth - 1) for part in inner)
    if total > MOST_VALUES:
        raise yaml.MarkedYAMLError(
            problem=f"it stands for more than {MOST_VALUES:,} values", problem_mark=node.start_mark
        )
    known[id(node)] = total
    return total


def _refuse_twice(loader: _Loader, node: yaml.Node) -> None:
    """Refuse a key that comes twice; ``a.b`` is that of ``a: {b: }`` too."""
    lines: dict[tuple[Any, ...], int] = {}
    for path, key in _keys(loader, node, ()):
        line = key.start_mark.line + 1
        if path in lines:
            first, name = lines[path], ".".join(map(str, path))
            where = f"line {line}" if first == line else f"lines {first} and {line}"
            raise yaml.YAMLError(f"{name!r:.80} comes twice, in {where}")
        lines[path] = line


def _keys(
    loader: _Loader, node: yaml.Node, path: tuple[Any, ...]
) -> Iterator[tuple[tuple[Any, ...], yaml.Node]]:
    """Every key of nested mappings with its path."""
    if isinstance(node, yaml.SequenceNode):
        for part in node.value:
            _refuse_twice(loader, part)
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        name = "<<" if key.tag == f"{_TAG}merge" else loader.construct_object(key)
        own = (*path, *(name.split(".") if isinstance(name, str) else [name]))
        yield own, key
        if name != "<<":  # a merged mapping gives way to the keys beside it
            yield from _keys(loader, value, own)
