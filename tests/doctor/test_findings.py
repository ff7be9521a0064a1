import threading
import time
from collections.abc import Iterator

from rwp_dist.base.errors import DataError
from rwp_dist.doctor.finding import Finding, Step, findings_of, worst


def one() -> Finding:
    return Finding("disks", "cache", "ok", "there")


def test_what_a_check_found_stands_when_it_then_raises() -> None:
    def check() -> Iterator[Finding]:
        yield one()
        raise PermissionError(13, "Permission denied")

    found = findings_of(Step("disks", "cache", check))
    assert [f.state for f in found] == ["ok", "warning"]
    assert "PermissionError" in found[1].seen and "Permission denied" in found[1].seen
    assert found[1].cure


def test_an_error_of_this_project_becomes_a_problem_with_its_cure() -> None:
    def check() -> Iterator[Finding]:
        yield one()
        raise DataError("a.tar: gone; and the rest; write it again.")

    problem = findings_of(Step("data", "training", check))[1]
    assert (problem.state, problem.seen) == ("problem", "a.tar: gone; and the rest")
    assert problem.cure == "Write it again."


def test_a_check_that_hangs_is_a_problem_and_what_it_found_before_stands() -> None:
    stop = threading.Event()

    def check() -> Iterator[Finding]:
        yield one()
        stop.wait(30)

    begin = time.monotonic()
    found = findings_of(Step("disks", "cache", check, limit_s=0.2))
    stop.set()
    assert time.monotonic() - begin < 10
    assert [f.state for f in found] == ["ok", "problem"]
    assert "did not answer within 0 s" in found[1].seen


def test_the_worst_state_counts() -> None:
    states = [Finding("a", "b", state, "") for state in ("ok", "problem", "warning")]
    assert worst(states) == "problem"
    assert worst([states[0], states[2]]) == "warning"
    assert worst([]) == "ok"
