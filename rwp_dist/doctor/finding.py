"""What a check found, and how checks are run so that none of them can stop the others."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from rwp_dist.base.errors import RwpError
from rwp_dist.doctor.machine import Machine
from rwp_dist.process.torchrun import node_name

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    """What was looked at."""
    state: State
    """ok; warning: a run may suffer from it; problem: a run will fail."""
    seen: str
    """What was seen, without a full stop."""
    cure: str = ""
    """What to do, as an imperative in lower case without a full stop; empty if nothing."""
    figures: dict[str, Any] = field(default_factory=dict)
    """The numbers behind it, for programs."""
    group: str = ""
    """What it belongs to, such as ``gpus``; filled in by ``run_check``."""
    node: str = ""
    """The machine it was seen on; filled in by ``run_check``."""


def ok(name: str, seen: str, **figures: Any) -> Finding:
    """Nothing is wrong."""
    return Finding(name, "ok", seen, "", figures)


def warning(name: str, seen: str, cure: str, **figures: Any) -> Finding:
    """A run may suffer from it."""
    return Finding(name, "warning", seen, cure, figures)


def problem(name: str, seen: str, cure: str, **figures: Any) -> Finding:
    """A run will fail."""
    return Finding(name, "problem", seen, cure, figures)


def from_error(name: str, error: RwpError) -> Finding:
    """An error of this project as a problem: its fields are those of a finding."""
    seen = f"{error.key}: {error.problem}" if error.key else error.problem
    return problem(name, seen.rstrip("."), error.cure or "")


@dataclass(frozen=True)
class Check:
    """One check, and what is needed to say that it failed."""

    group: str
    name: str
    look: Callable[[Machine], Iterator[Finding]]
    """Yields findings as it goes; they count also if it then raises or hangs."""
    limit_s: float = 60.0
    """Seconds after which it counts as hanging."""


def run_check(check: Check, machine: Machine) -> list[Finding]:
    """Run one check; an exception in it or its hanging is a finding, too.

    It runs in a thread, because what hangs on a sick machine, such as a file system whose server
    is gone or a GPU that has fallen off the bus, cannot be interrupted.
    """
    found: list[Finding] = []

    def work() -> None:
        try:
            for finding in check.look(machine):
                found.append(finding)
        except RwpError as error:
            found.append(from_error(check.name, error))
        except Exception as error:
            text = " ".join(str(error).split())[:300] or "no message"
            seen = f"could not be checked ({type(error).__name__}: {text})"
            found.append(warning(check.name, seen, "check it by hand; the other findings stand"))

    thread = threading.Thread(target=work, daemon=True, name=f"doctor-{check.group}")
    thread.start()
    thread.join(check.limit_s)
    result = list(found)
    if thread.is_alive():
        cure = (
            "look at this machine's kernel log (dmesg) and its network file systems; restart it if "
            "a device hangs"
        )
        seen = f"did not answer within {check.limit_s:.0f} s"
        result.append(problem(check.name, seen, cure))
    return [replace(finding, group=check.group, node=node_name()) for finding in result]


def worst(findings: Sequence[Finding]) -> State:
    """The worst state among findings; ok if there are none."""
    states = {finding.state for finding in findings}
    return "problem" if "problem" in states else "warning" if "warning" in states else "ok"
