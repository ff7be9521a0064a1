"""Findings as a person or a program reads them."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, TextIO

import click

from rwp_dist.doctor.finding import Finding, State, worst
from rwp_dist.record.directory import finite

NAME_WIDTH = 20

SIGNS: dict[State, tuple[str, str, str]] = {
    "ok": ("✓", "ok", "green"),
    "warning": ("!", "! ", "yellow"),
    "problem": ("✗", "X ", "red"),
}
"""As a sign, as ASCII, and its colour."""


def show(findings: Iterable[Finding], out: TextIO) -> list[Finding]:
    """Print findings as they come, grouped, each with its cure below it; returns them all."""
    seen: list[Finding] = []
    for finding in findings:
        if not seen or seen[-1].group != finding.group:
            _say(finding.group, out)
        seen.append(finding)
        _say(f"  {_sign(finding.state, out)} {finding.name:<{NAME_WIDTH}}  {finding.seen}", out)
        if finding.cure:
            _say(f"      {_can(out, '→', '->')} {finding.cure}", out)
    _say(f"\n{summary(seen)}", out)
    return seen


def show_node(findings: Iterable[Finding], node: str, out: TextIO) -> list[Finding]:
    """What a job's log needs: what is wrong, then one line, each with the node's name."""
    seen = list(findings)
    for finding in seen:
        if finding.state != "ok":
            text = f"{node}: {finding.state}: {finding.group}, {finding.name}: {finding.seen}."
            _say(f"{text} {finding.cure}".rstrip(), out)
    fit = "sick" if worst(seen) == "problem" else "fit"
    _say(f"{node}: {fit} ({len(seen)} checks, {_counts(seen)})", out)
    return seen


def as_json(findings: Sequence[Finding], node: str) -> str:
    """One document: the machine, the worst state, every finding with its figures."""
    document: dict[str, Any] = {
        "node": node,
        "state": worst(findings),
        "findings": [asdict(finding) for finding in findings],
    }
    return json.dumps(finite(document), indent=2, ensure_ascii=True)


def summary(findings: Sequence[Finding]) -> str:
    """One line at the end."""
    counts = _counts(findings)
    counts = f"{counts[:1].upper()}{counts[1:]}"
    if worst(findings) == "problem":
        return f"{counts}: a run is likely to fail here until that is put right."
    return f"{counts}: nothing here keeps a run from starting."


@contextmanager
def own_stdout() -> Iterator[TextIO]:
    """Standard output for the report alone: what libraries print there goes to standard error."""
    try:
        number = sys.stdout.fileno()
    except (OSError, ValueError):  # a caller's buffer
        yield sys.stdout
        return
    sys.stdout.flush()
    ours = os.dup(number)
    os.dup2(2, number)
    try:
        with os.fdopen(os.dup(ours), "w", encoding=sys.stdout.encoding, errors="replace") as out:
            yield out
    finally:
        sys.stdout.flush()
        os.dup2(ours, number)
        os.close(ours)


def _counts(findings: Sequence[Finding]) -> str:
    states = [finding.state for finding in findings]
    parts = [
        f"{number or 'no'} {word}{'s' if number != 1 else ''}"
        for word in ("problem", "warning")
        if (number := states.count(word)) or word == "problem"
    ]
    return ", ".join(parts)


def _say(text: str, out: TextIO) -> None:
    click.echo(text, file=out)
    out.flush()


def _sign(state: State, out: TextIO) -> str:
    sign, plain, colour = SIGNS[state]
    return click.style(plain if _can(out, SIGNS["ok"][0], "") == "" else sign, fg=colour)


def _can(out: TextIO, text: str, plain: str) -> str:
    """The text, or a plain one where the terminal's encoding does not have it."""
    try:
        text.encode(out.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return plain
    return text
