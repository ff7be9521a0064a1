"""Ranks that meet before they form a group: all can start, or all end at once."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.until import HANG_S, until

from rwp_dist.process import meeting, stages

RANK = """
import os, sys, time
from rwp_dist.base.errors import ConfigError, RwpError
from rwp_dist.process import meeting
meeting.BY_HAND_S = float(sys.argv[2])
try:
    if sys.argv[1] == "wrong":
        with meeting.refused_together():
            raise ConfigError("'abc' is not allowed", key="optimizer.lr")
    store = meeting.meet()
    store.add("gone", 1)
    while os.environ["RANK"] == "0" and store.add("gone", 0) < int(os.environ["WORLD_SIZE"]):
        time.sleep(0.01)  # it holds the store
except RwpError as error:
    sys.exit(f"refused: {error}")
"""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def ranks(*kinds: str, address: str = "127.0.0.1") -> list[tuple[int, str]]:
    """Exit code and stderr of a rank for each kind."""
    known = {"MASTER_ADDR": address, "MASTER_PORT": str(free_port())}
    known["WORLD_SIZE"] = str(len(kinds))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, kind, "90"],
            env=os.environ | known | {"RANK": str(rank), "SLURMD_NODENAME": f"n{rank}"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, kind in enumerate(kinds)
    ]
    said = [process.communicate(timeout=HANG_S)[1] for process in processes]
    return [(p.returncode, text) for p, text in zip(processes, said, strict=True)]


def test_ranks_that_can_all_start_go_on() -> None:
    assert ranks("right", "right") == [(0, ""), (0, "")]


def test_a_rank_with_wrong_settings_ends_those_that_wait_for_it() -> None:
    (code, said), (other_code, other) = ranks("right", "wrong")
    assert (code, other_code) == (1, 1)
    assert "refused: rank 1 on n1 cannot start: optimizer.lr: 'abc' is not allowed" in said
    assert "refused: optimizer.lr: 'abc' is not allowed" in other


def test_the_rank_that_holds_the_store_ends_after_the_others_have_heard() -> None:
    (code, _), (other_code, other) = ranks("wrong", "right")
    assert (code, other_code) == (1, 1)
    assert "rank 0 on n0 cannot start" in other


@pytest.mark.parametrize("address", ["[::1]", "::1"])
def test_ranks_meet_at_an_address_of_ipv6(address: str) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6")
    assert ranks("right", "right", address=address) == [(0, ""), (0, "")]


def test_every_rank_that_waits_long_says_for_what(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "::1", "MASTER_PORT": "29500"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(stages, "OTHERS_PATIENCE_S", 0.01)
    said = []
    with meeting.waiting():
        until(lambda: said.append(capsys.readouterr().out) or any(said), "the line")
    place = "waiting for the other ranks at [::1]:29500"
    assert "".join(said) == f"{place} (this is RANK 1 of WORLD_SIZE 2) ...\n"


# --- variables that are left over in a shell ---


def alone(wait_s: float = 1, **told: str) -> subprocess.Popen[str]:
    """Rank 0 of 2, of which the other never comes."""
    return subprocess.Popen(
        [sys.executable, "-c", RANK, "right", str(wait_s)],
        env=os.environ | {"RANK": "0", "WORLD_SIZE": "2"} | told,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_rank_whose_others_never_come_says_so_within_its_time(rank: str) -> None:
    port = str(free_port())
    process = alone(RANK=rank, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    said = process.communicate(timeout=HANG_S)[1]
    assert process.returncode == 1
    assert f"refused: WORLD_SIZE: RANK={rank} and WORLD_SIZE=2 say that" in said
    assert f"have come to 127.0.0.1:{port}" in said
    assert "; unset RANK WORLD_SIZE if they are left over in this shell; otherwise" in said
    assert said.count("\n") == 1, "nothing of torch's own"


def test_a_rank_that_waits_for_others_obeys_a_signal() -> None:
    port = free_port()
    process = alone(600, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    until(lambda: _listens(port), "the store")
    process.terminate()
    assert process.wait(HANG_S) == -signal.SIGTERM
    assert process.communicate()[1] == ""


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_rank_at_an_address_that_is_not_of_rank_0_obeys_a_signal_and_has_a_limit(rank) -> None:
    """torch's store would be waited for half an hour, and no signal obeyed."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        told = {
            "RANK": rank,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(other.getsockname()[1]),
        }
        if rank == "0":
            told |= {"MASTER_ADDR": "node17.invalid", "MASTER_PORT": str(free_port())}
        said = alone(3, **told).communicate(timeout=HANG_S)[1]
        assert f"refused: WORLD_SIZE: RANK={rank} and WORLD_SIZE=2 say that" in said
        process = alone(600, **told)
        until(lambda: _connects(process.pid), "a socket of torch's store")
        process.terminate()
        assert process.wait(HANG_S) == -signal.SIGTERM


def _connects(pid: int) -> bool:
    """Whether a process has begun to connect: torch is loaded, and asks for the address."""
    threads = Path(f"/proc/{pid}/task")
    return len(list(threads.iterdir())) > 1


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_rank_that_is_not_told_where_to_meet_says_so() -> None:
    said = alone().communicate(timeout=HANG_S)[1]
    assert "this is rank 0 of 2, and nothing says where they meet; unset RANK WORLD_SIZE" in said


@pytest.mark.parametrize(
    ("port", "what"),
    [("70000", "'70000' is no port"), ("abc", "'abc' is no port"), ("", "it is not set")],
)
def test_a_port_that_is_none_is_named(port: str, what: str) -> None:
    said = alone(MASTER_ADDR="localhost", MASTER_PORT=port).communicate(timeout=HANG_S)[1]
    assert f"refused: MASTER_PORT: {what}, so rank 0 of 2 cannot meet the others; set" in said
    assert said.count("\n") == 1


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        known = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        said = alone(60, **known).communicate(timeout=HANG_S)[1]
    assert f"MASTER_PORT: something else uses the port of 127.0.0.1:{port}" in said
