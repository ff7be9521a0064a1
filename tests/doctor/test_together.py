"""Several ranks, as torchrun starts them, examine their machines together."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.examining import CONFIG, ROOT

from rwp_dist.doctor import clock
from rwp_dist.doctor.finding import Finding
from rwp_dist.doctor.together import _merged
from rwp_dist.shards.digits import write_digits


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(rank: int, port: int, *arguments: str, node: str, **more: str) -> subprocess.Popen:
    """One rank, alone on a node of that name."""
    told = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
    told |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "SLURMD_NODENAME": node}
    return subprocess.Popen(
        [sys.executable, "-m", "rwp_dist", "doctor", CONFIG, "--json", *arguments],
        cwd=ROOT,
        env=os.environ | {k: str(v) for k, v in told.items()} | more,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.flaky(reruns=2)  # the port may be taken meanwhile, and clocks are read with a delay
def test_two_nodes_are_one_report_that_names_the_sick_one(tmp_path: Path) -> None:
    write_digits(tmp_path)
    (tmp_path / "file").touch()
    options = [f"data.train={tmp_path}/train", f"data.val={tmp_path}/test"]
    port = free_port()
    ranks = [
        start(0, port, *options, node="n1"),
        start(1, port, *options, node="n2", TORCH_EXTENSIONS_DIR=f"{tmp_path}/file/x"),
    ]
    (output, errors), (silent, _) = (rank.communicate(timeout=150) for rank in ranks)
    assert silent == "", "one rank speaks"
    found = {f["name"]: f for f in json.loads(output)["findings"]}
    assert found["n2: build folder"]["state"] == "problem", errors
    assert found["n2: build folder"]["node"] == "n2"
    assert found["build folder"]["state"] == "ok"
    assert "n1" in found["between nodes"]["seen"] and "n2" in found["between nodes"]["seen"]
    assert found["between nodes"]["figures"]["apart_s"] < 0.5
    assert "between 2 ranks" in found["all-reduce (gloo)"]["seen"]
    assert [rank.returncode for rank in ranks] == [1, 1]


def test_what_is_well_on_other_nodes_is_not_told_and_groups_stay_together() -> None:
    def finding(node: str, group: str, state: str = "ok") -> Finding:
        return Finding(group, "thing", state, "", node=node)

    first = [finding("n1", "gpus"), finding("n1", "disks")]
    second = [finding("n2", "gpus", "problem"), finding("n2", "disks")]
    merged = _merged([first, second, []])
    assert [(f.group, f.name, f.state) for f in merged] == [
        ("gpus", "thing", "ok"),
        ("gpus", "n2: thing", "problem"),
        ("disks", "thing", "ok"),
    ]


def test_the_two_clocks_that_are_furthest_apart_are_named() -> None:
    found = clock.between_nodes([0.0, 4.0, -3.0], ["n1", "n2", "n3"])
    assert found.state == "warning" and "7.0 s apart: n3 and n2" in found.seen
    assert clock.between_nodes([0.0, 1000.0], ["n1", "n2"]).state == "problem"
    assert clock.between_nodes([0.0, 0.01], ["n1", "n2"]).state == "ok"
