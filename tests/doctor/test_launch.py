"""How a run would be started from here."""

import pytest
from support.examining import look

from rwp_dist.doctor import launch
from rwp_dist.doctor.machine import Machine


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_STEP_ID", "SLURM_JOB_CPUS_PER_NODE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("told", "state", "seen"),
    [
        ({}, "ok", "none of other runs"),
        ({"WORLD_SIZE": "2"}, "warning", "WORLD_SIZE=2 is left over"),
        ({"RANK": "x", "WORLD_SIZE": "2"}, "problem", "RANK: RANK='x'"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "warning", "LOCAL_RANK is not set: 1 of 2"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "ok", "this is one of 2 ranks"),
        (
            {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"},
            "warning",
            "OMPI_COMM_WORLD_S",
        ),
    ],
)
def test_leftover_variables_are_named(
    told: dict[str, str], state: str, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    (found,) = look(launch.variables, Machine())
    assert found.state == state and found.seen.startswith(seen)
    assert bool(found.cure) == (state != "ok")


@pytest.mark.parametrize(
    ("told", "seen"),
    [
        ("128,64(x3)", "they are not equal: 1 with 128 cores, 3 with 64 cores"),
        ("64(x2),128,64", "they are not equal: 3 with 64 cores, 1 with 128 cores"),
        ("128(x4)", None),
        ("128", None),
        ("", None),
    ],
)
def test_nodes_that_are_not_equal_are_named(
    told: str, seen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_CPUS_PER_NODE", told)
    assert [f.seen for f in look(launch.nodes, Machine())] == ([seen] if seen else [])


def test_nodes_count_only_in_a_step_of_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SLURM_JOB_NUM_NODES": "4", "SLURM_STEP_NUM_NODES": "4"}.items():
        monkeypatch.setenv(name, value)
    for step, ranks in {"0": 4, "4294967290": 1}.items():
        monkeypatch.setenv("SLURM_STEP_ID", step)
        machine = Machine()
        machine.__dict__["probe"] = None
        assert machine.world_size == ranks
