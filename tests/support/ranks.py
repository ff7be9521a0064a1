"""Several ranks as an ordinary function call: ``run_ranks(function, world_size, *args)``.

The ranks are real processes in a gloo group. They are forked from a server that has imported torch
and DeepSpeed already, so that a group starts in a moment. Each call starts fresh processes, because
some of DeepSpeed's flags are global to a process and never reset.
"""

import faulthandler
import multiprocessing
import os
import pickle
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist

from support.until import HANG_S

GRACE_S = 3.0
"""How long other ranks may go on after one has failed: they may wait for it for ever."""

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "DS_ACCELERATOR": "cpu",
    "CUDA_VISIBLE_DEVICES": "",
    "GLOO_SOCKET_IFNAME": "lo",
    "WANDB_MODE": "offline",
}
PRELOAD = [
    "torchvision",
    # What deepspeed.initialize imports when it is first called: seconds of torch's compiler.
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "rwp_dist.train",
    # What modules of tests import.
    "support.properties",
    "support.oracle",
    "setuptools",
]


class RankError(AssertionError):
    """A rank that raised, hung or died; its traceback or its stacks are the message."""


def run_ranks(
    function: Callable[..., Any], world_size: int, *args: Any, timeout_s: float = HANG_S
) -> list[Any]:
    """Call ``function(*args)`` on every rank of a new group; what each returned, by rank.

    Args:
        function: one of a module's top level; it may use ``torch.distributed`` at once.
        world_size: number of ranks.
        *args: the same for all ranks.
        timeout_s: after that the ranks dump their stacks and are killed.

    Raises:
        Exception: what the first rank to fail raised; its traceback is the cause.
        RankError: ranks hung or died.
    """
    context = multiprocessing.get_context("forkserver")
    # The store's port is also what DeepSpeed names its shared memory by: it must be free.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with tempfile.TemporaryDirectory() as folder:
        stacks = [Path(folder) / f"stacks-{rank}" for rank in range(world_size)]
        readers: dict[Connection, int] = {}
        processes = []
        for rank in range(world_size):
            reader, writer = context.Pipe(duplex=False)
            process = context.Process(
                target=_rank,
                args=(
                    function,
                    args,
                    rank,
                    world_size,
                    store.port,
                    writer,
                    stacks[rank],
                    timeout_s,
                ),
                daemon=True,
            )
            process.start()
            writer.close()
            readers[reader] = rank
            processes.append(process)
        try:
            return _collect(readers, stacks, world_size, timeout_s)
        finally:
            for process in processes:
                process.kill()  # those that answered have nothing left to do
                process.join()


def _collect(
    readers: dict[Connection, int], stacks: list[Path], world_size: int, timeout_s: float
) -> list[Any]:
    results: dict[int, Any] = {}
    failure: tuple[int, BaseException, str] | None = None
    # Ranks end themselves after the time-out; the parent only waits a little longer for that.
    deadline = time.monotonic() + timeout_s + 2 * GRACE_S
    while readers and time.monotonic() < deadline:
        for reader in wait(list(readers), timeout=0.5):
            rank = readers.pop(reader)
            try:
                kind, *content = pickle.loads(reader.recv_bytes())
            except EOFError:
                continue  # killed, or ended by its own time-out
            if kind == "result":
                results[rank] = content[0]
            elif failure is None:
                failure = (rank, *content)
                deadline = min(deadline, time.monotonic() + GRACE_S)
    if failure is not None:
        rank, error, text = failure
        raise error from RankError(f"rank {rank}:\n{text}")
    if len(results) < world_size:
        missing = sorted(set(range(world_size)) - set(results))
        dumps = "\n".join(
            f"rank {rank}:\n{stacks[rank].read_text() if stacks[rank].exists() else ''}"
            for rank in missing
        )
        raise RankError(f"ranks {missing} hung or died; their stacks:\n{dumps}")
    return [results[rank] for rank in range(world_size)]


def _rank(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    rank: int,
    world_size: int,
    port: int,
    writer: Connection,
    stacks: Path,
    timeout_s: float,
) -> None:
    with stacks.open("w") as file:
        faulthandler.enable(file)  # a crash leaves its stacks too
        faulthandler.dump_traceback_later(timeout_s, exit=True, file=file)
        os.environ.update(
            ENVIRONMENT
            | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
            | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        )
        torch.set_num_threads(1)
        warnings.filterwarnings("error", module=r"(rwp_dist|launcher)\b")  # as in pyproject.toml
        try:
            store = dist.TCPStore("127.0.0.1", port, is_master=False)
            dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
            message = ("result", function(*args))
        except BaseException as error:
            message = ("error", _picklable(error), traceback.format_exc())
        writer.send_bytes(pickle.dumps(message))
        writer.close()
        faulthandler.cancel_dump_traceback_later()
    # DeepSpeed's and gloo's threads need not be waited for.
    os._exit(0)


def _picklable(error: BaseException) -> BaseException:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RankError(f"{type(error).__name__}: {error}")
    return error


def start_server() -> None:
    """Have the fork server import what ranks need, before the first group is started."""
    multiprocessing.set_forkserver_preload(PRELOAD)
    # Python 3.11 does not give the server this process's sys.path, and skips what it can't find.
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    with patch.dict(os.environ, ENVIRONMENT | path):
        forkserver.ensure_running()
