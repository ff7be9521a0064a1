"""An all-reduce between processes, and what it tells of the network between them.

Ranks that torchrun has started measure among themselves. A doctor alone starts two processes.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from rwp_dist.doctor.case import Case
from rwp_dist.doctor.finding import Finding
from rwp_dist.tracking.console import size

GROUP = "network"

TOGETHER_S = 90.0
"""How long two processes may take to import torch, find each other and reduce."""

REPEATS = 5
CPU_BYTES = 16 << 20
GPU_BYTES = 256 << 20


def two_processes(case: Case) -> Iterator[Finding]:
    """gloo between two processes of this machine, and NCCL between two of its GPUs."""
    for backend in ("gloo", *(["nccl"] if len(case.gpus) > 1 else [])):
        yield _together(backend)


def measure(device: str, group: Any = None) -> dict[str, float]:
    """Seconds of one all-reduce, and its bus bandwidth. A collective of the group, or of all ranks.

    The bandwidth is what each link carries in a ring, ``2 (n - 1) / n`` times the bytes, as
    nccl-tests counts it. The median of several, because the first ones set connections up.

    Raises:
        RuntimeError: the sum is wrong.
    """
    import torch
    import torch.distributed as dist

    world_size = dist.get_world_size(group)
    num_bytes = CPU_BYTES if device == "cpu" else GPU_BYTES
    values = torch.ones(num_bytes // 4, device=device)
    seconds = []
    for _ in range(2 + REPEATS):
        values.fill_(1.0)
        dist.barrier(group)
        begin = time.perf_counter()
        dist.all_reduce(values, group=group)
        if device != "cpu":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
        if not bool((values == world_size).all()):
            raise RuntimeError("the sum over all ranks is wrong")
    median = sorted(seconds[2:])[REPEATS // 2]
    moved = 2 * (world_size - 1) / world_size * num_bytes
    return {"seconds": median, "bytes_per_s": moved / median, "bytes": float(num_bytes)}


def finding(backend: str, found: dict[str, float], ranks: str) -> Finding:
    """What a measurement says."""
    return Finding(
        GROUP,
        f"all-reduce ({backend})",
        "ok",
        f"{size(found['bytes_per_s'])}/s between {ranks}: {size(found['bytes'])} in "
        f"{1000 * found['seconds']:.0f} ms",
        "",
        found,
    )


def _together(backend: str) -> Finding:
    with tempfile.TemporaryDirectory(prefix="rwp-doctor-") as folder:
        command = [sys.executable, "-m", "rwp_dist.doctor.network", backend, folder]
        processes = [
            subprocess.Popen(
                [*command, str(rank)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            for rank in range(2)
        ]
        deadline = time.monotonic() + TOGETHER_S
        outputs = []
        try:
            for process in processes:
                left = max(deadline - time.monotonic(), 0.1)
                outputs.append(process.communicate(timeout=left))
        except subprocess.TimeoutExpired:
            why = f"two processes did not finish one within {TOGETHER_S:.0f} s"
            return _failed(backend, why)
        finally:
            for process in processes:
                process.kill()
                process.wait()
    if all(process.returncode == 0 for process in processes):
        found: dict[str, float] = json.loads(outputs[0][0].splitlines()[-1])
        return finding(backend, found, "two processes here")
    errors = [e for (_, e), p in zip(outputs, processes, strict=True) if p.returncode]
    last = (errors[0].strip().splitlines() or ["no message"])[-1]
    return _failed(backend, f"fails between two processes of this machine ({last[:240]})")


def _failed(backend: str, why: str) -> Finding:
    variable = "NCCL_SOCKET_IFNAME" if backend == "nccl" else "GLOO_SOCKET_IFNAME"
    cards = ", ".join(_network_cards()) or "none"
    more = "; NCCL_DEBUG=INFO says what NCCL tried" if backend == "nccl" else ""
    return Finding(
        GROUP,
        f"all-reduce ({backend})",
        "problem",
        why,
        f"Check that {socket.gethostname()} resolves to an address of this machine, or set "
        f"{variable} to one of its network cards ({cards}){more}.",
    )


def _network_cards() -> list[str]:
    return sorted(name for name, stats in psutil.net_if_stats().items() if stats.isup)


def _rank(backend: str, folder: str, rank: int) -> None:
    """One of the two processes."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    device = "cpu"
    if backend == "nccl":
        torch.cuda.set_device(rank)
        device = f"cuda:{rank}"
    store = dist.FileStore(str(Path(folder) / "store"), 2)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=rank, world_size=2)
    print(json.dumps(measure(device)), flush=True)
    os._exit(0)  # the other one may be gone already, and nothing is left to do


if __name__ == "__main__":
    _rank(sys.argv[1], sys.argv[2], int(sys.argv[3]))
