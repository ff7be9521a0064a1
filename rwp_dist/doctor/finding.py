"""What a check found, and how checks are run so that none of them can stop the others."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rwp_dist.base.errors import RwpError

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    group: str
    """What it belongs to: ``software``, ``gpus``, ``disks``, ..."""
    name: str
    """What was looked at."""
    state: State
    """ok; warning: a run may suffer from it; problem: a run will fail."""
    seen: str
    """What was seen, without a full stop."""
    cure: str = ""
    """One sentence that says what to do; empty where nothing is to be done."""
    figures: dict[str, Any] = field(default_factory=dict)
    """The numbers behind it, for programs."""
    node: str = ""
    """The machine it was seen on; filled in by ``examine``."""


Check = Callable[[], Iterator[Finding]]
"""Yields findings as it goes; what it has yielded counts also if it then raises or hangs."""


@dataclass(frozen=True)
class Step:
    """A check with what is needed to say that it failed."""

    group: str
    name: str
    check: Check
    limit_s: float = 60.0
    """After that it counts as hanging."""


def findings_of(step: Step) -> list[Finding]:
    """Run one check in a thread; what it raises, and that it hangs, is a finding too.

    A thread, because what a sick machine hangs in, such as a file system whose server is gone or
    a GPU that has fallen off the bus, cannot be interrupted.
    """
    found: list[Finding] = []

    def work() -> None:
        try:
            for finding in step.check():
                found.append(finding)
        except RwpError as error:
            found.append(_from_error(step, error))
        except Exception as error:
            text = " ".join(str(error).split())[:300] or "no message"
            found.append(
                Finding(
                    step.group,
                    step.name,
                    "warning",
                    f"could not be checked ({type(error).__name__}: {text})",
                    "Check it by hand; the other findings stand.",
                )
            )

    thread = threading.Thread(target=work, daemon=True, name=f"doctor-{step.group}")
    thread.start()
    thread.join(step.limit_s)
    result = list(found)
    if thread.is_alive():
        result.append(
            Finding(
                step.group,
                step.name,
                "problem",
                f"did not answer within {step.limit_s:.0f} s",
                "Look at this machine's kernel log (dmesg) and its network file systems; restart "
                "it if a device hangs.",
            )
        )
    return result


def worst(findings: Sequence[Finding]) -> State:
    """The worst state among findings; ok if there are none."""
    states = {finding.state for finding in findings}
    return "problem" if "problem" in states else "warning" if "warning" in states else "ok"


def _from_error(step: Step, error: RwpError) -> Finding:
    """The project's errors end with their cure, behind the last semicolon."""
    seen, _, cure = " ".join(str(error).split()).rstrip(".").rpartition("; ")
    if not seen:
        seen, cure = cure, "See `rwp-dist --help`"
    return Finding(step.group, step.name, "problem", seen, f"{cure[:1].upper()}{cure[1:]}.")
