"""Text in files and from programs is UTF-8, so its encoding is always named."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
AT = {"open": 2, "read_text": 0, "write_text": 1, "run": None, "Popen": None, "check_output": None}
"""Functions that take an encoding, by name, and its place among the arguments of ``Path``'s."""


def unnamed(source: str) -> Iterator[int]:
    """Lines with a call that reads or writes text in the locale's encoding."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        name = getattr(function, "attr", getattr(function, "id", ""))
        given = {word.arg: word.value for word in node.keywords}
        if name not in AT or "encoding" in given or None in given:
            continue
        place = AT[name]
        if place is None:
            if getattr(given.get("text", given.get("universal_newlines")), "value", False):
                yield node.lineno
            continue
        if name == "open":
            if getattr(getattr(function, "value", None), "id", "") in ("os", "Image", "tarfile"):
                continue
            at = 0 if isinstance(function, ast.Attribute) else 1  # Path's own, or the built-in
            mode = given.get("mode", node.args[at] if len(node.args) > at else ast.Constant("r"))
            text = getattr(mode, "value", None)
            # Of other classes' `open`, arguments are no modes.
            if not isinstance(text, str) or "b" in text or not set(text) <= set("rwxat+"):
                continue
            if isinstance(function, ast.Attribute) and not node.args and not node.keywords:
                continue
        if len(node.args) <= place:
            yield node.lineno


@pytest.mark.parametrize(
    ("code", "is_found"),
    [
        ("path.read_text()", True),
        ("path.read_text('utf-8')", False),
        ("path.write_text(text)", True),
        ("path.write_text(text, encoding='utf-8')", False),
        ("open(path)", True),
        ("path.open('a')", True),
        ("path.open('ab')", False),
        ("path.open('w', encoding='utf-8')", False),
        ("cache.open(shard)", False),
        ("subprocess.run(command, text=True)", True),
        ("subprocess.run(command, encoding='utf-8')", False),
        ("subprocess.run(command)", False),
    ],
)
def test_it_finds_what_depends_on_the_locale(code: str, is_found: bool) -> None:
    assert list(unnamed(code)) == ([1] if is_found else [])


def test_no_text_depends_on_the_locale() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for package in ("rwp_dist", "launcher")
        for path in sorted((ROOT / package).rglob("*.py"))
        for line in unnamed(path.read_text("utf-8"))
    ]
    assert found == []
