"""Findings as text for a person or as JSON for a program."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, TextIO

import click

from rwp_dist.base.files import finite
from rwp_dist.doctor.finding import Finding, State, worst

COLOURS: dict[State, str] = {"ok": "green", "warning": "yellow", "problem": "red"}


def show(findings: Iterable[Finding], out: TextIO) -> list[Finding]:
    """Print findings as they come, by group, each with its cure below it; return them all."""
    shown: list[Finding] = []
    for finding in findings:
        if not shown or shown[-1].group != finding.group:
            _say(finding.group, out)
        shown.append(finding)
        state = click.style(f"{finding.state:<7}", fg=COLOURS[finding.state])
        _say(f"  {state}  {finding.name:<20}  {finding.seen}", out)
        if finding.cure:
            _say(f"{'':>11}-> {finding.cure}", out)
    verdict = (
        "a run is likely to fail here until that is put right"
        if worst(shown) == "problem"
        else "nothing here keeps a run from starting"
    )
    _say(f"\n{_counts(shown)}: {verdict}.", out)
    return shown


def show_node(findings: Iterable[Finding], node: str, out: TextIO) -> list[Finding]:
    """Print what is wrong for a job's log, then one line; each line begins with the node's name."""
    shown = list(findings)
    for finding in shown:
        if finding.state != "ok":
            text = f"{finding.state}: {finding.group}, {finding.name}: {finding.seen}"
            _say(f"{node}: {'; '.join(filter(None, (text, finding.cure)))}.", out)
    state = "sick" if worst(shown) == "problem" else "fit"
    _say(f"{node}: {state} ({len(shown)} checks, {_counts(shown)})", out)
    return shown


def as_json(findings: Sequence[Finding], node: str) -> str:
    """One document: the machine, the worst state, every finding with its figures."""
    document: dict[str, Any] = {
        "node": node,
        "state": worst(findings),
        "findings": [asdict(finding) for finding in findings],
    }
    return json.dumps(finite(document), indent=2)


def _counts(findings: Sequence[Finding]) -> str:
    states = [finding.state for finding in findings]
    problems, warnings = states.count("problem"), states.count("warning")
    text = f"{problems or 'no'} problem{'s' if problems != 1 else ''}"
    return f"{text}, {warnings} warning{'s' if warnings != 1 else ''}" if warnings else text


def _say(text: str, out: TextIO) -> None:
    click.echo(text, file=out)
    out.flush()
