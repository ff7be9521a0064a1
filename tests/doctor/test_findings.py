"""How checks are run: none of them stops the others."""

import threading
import time
from collections.abc import Iterator

from support.examining import look
from support.until import HANG_S

from rwp_dist.base.errors import DataError
from rwp_dist.doctor.finding import Check, Finding, ok, problem, run_check, warning, worst
from rwp_dist.doctor.machine import Machine


def test_a_finding_stands_if_its_check_then_raises() -> None:
    def check(machine: Machine) -> Iterator[Finding]:
        yield ok("cache", "there", bytes=3)
        raise PermissionError(13, "Permission denied")

    first, second = look(check, Machine())
    assert (first.state, first.figures) == ("ok", {"bytes": 3})
    assert second.state == "warning" and second.cure
    assert "PermissionError" in second.seen and "Permission denied" in second.seen


def test_findings_are_told_their_group_and_node(monkeypatch) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "n17")
    check = Check("disks", "cache", lambda machine: iter([ok("cache", "there")]))
    [found] = run_check(check, Machine())
    assert (found.group, found.node) == ("disks", "n17")


def test_an_error_of_this_project_is_a_problem_with_its_fields() -> None:
    def check(machine: Machine) -> Iterator[Finding]:
        yield ok("cache", "there")
        raise DataError("a.tar is gone", key="data.train", cure="write it again")

    found = look(check, Machine())[1]
    assert (found.state, found.seen) == ("problem", "data.train: a.tar is gone")
    assert found.cure == "write it again"


def test_a_check_that_hangs_is_a_problem_and_what_it_found_before_stands() -> None:
    stop = threading.Event()

    def check(machine: Machine) -> Iterator[Finding]:
        yield ok("cache", "there")
        stop.wait(HANG_S)

    begin = time.monotonic()
    found = run_check(Check("disks", "cache", check, limit_s=0.2), Machine())
    stop.set()
    assert time.monotonic() - begin < HANG_S / 2
    assert [f.state for f in found] == ["ok", "problem"]
    assert "did not answer" in found[1].seen


def test_the_worst_state_counts() -> None:
    good, bad, worse = ok("a", ""), warning("a", "", ""), problem("a", "", "")
    assert worst([good, worse, bad]) == "problem"
    assert worst([good, bad]) == "warning"
    assert worst([]) == "ok"
