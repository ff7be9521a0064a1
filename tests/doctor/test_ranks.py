"""Several ranks, as torchrun starts them, examine their machines together."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from support.examining import CONFIG, ROOT
from support.until import HANG_S

from rwp_dist.doctor.finding import Finding
from rwp_dist.doctor.ranks import merge
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


def both(one: list[str], other: list[str], **environment: str) -> list[tuple[str, str, int]]:
    """Output, errors and exit code of two ranks with these settings, on the nodes n1 and n2."""
    port = free_port()
    ranks = [
        start(0, port, *one, node="n1", **environment),
        start(1, port, *other, node="n2", **environment),
    ]
    said = [rank.communicate(timeout=HANG_S) for rank in ranks]
    return [(*words, rank.returncode) for words, rank in zip(said, ranks, strict=True)]


def test_two_nodes_are_one_report_that_names_the_sick_one(tmp_path: Path) -> None:
    write_digits(tmp_path)
    (tmp_path / "file").touch()
    data = [f"data.train={tmp_path}/train", f"data.val={tmp_path}/test", "run.device=cpu"]
    (output, errors, code), (silent, _, other) = both(data, [*data, f"run.dir={tmp_path}/file/x"])
    assert silent == "", "one rank speaks"
    found = {f["name"]: f for f in json.loads(output)["findings"]}
    assert found["n2: run directory"]["state"] == "problem", errors
    assert found["n2: run directory"]["node"] == "n2"
    assert found["run directory"]["state"] == "ok"
    assert found["all-reduce (gloo)"]["figures"]["bytes_per_s"] > 1e6
    assert "2 ranks" in found["all-reduce (gloo)"]["seen"]
    assert (code, other) == (1, 1)


def test_ranks_that_do_not_reach_each_other_are_a_problem(tmp_path: Path) -> None:
    settings = [f"run.dir={tmp_path}/run", f"data.train={tmp_path}", f"data.val={tmp_path}"]
    (output, _, code), _ = both(settings, settings, GLOO_SOCKET_IFNAME="nocard0")
    found = {f["name"]: f for f in json.loads(output)["findings"]}
    assert found["ranks"]["state"] == "problem" and "nocard0" in found["ranks"]["seen"]
    assert "GLOO_SOCKET_IFNAME" in found["ranks"]["cure"]
    assert found["run directory"]["state"] == "ok", "its own machine is examined all the same"
    assert code == 1


def test_what_is_well_on_other_nodes_is_not_told_and_groups_stay_together() -> None:
    def finding(node: str, group: str, state: str = "ok") -> Finding:
        return Finding("thing", state, "", group=group, node=node)

    first = [finding("n1", "gpus"), finding("n1", "disks")]
    second = [finding("n2", "gpus", "problem"), finding("n2", "disks")]
    assert [(f.group, f.name, f.state) for f in merge([first, second, []])] == [
        ("gpus", "thing", "ok"),
        ("gpus", "n2: thing", "problem"),
        ("disks", "thing", "ok"),
    ]
