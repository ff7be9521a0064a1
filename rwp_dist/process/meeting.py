"""Ranks meet before they form a group: all of them can start, or none does.

A rank whose settings are wrong, perhaps because its node has an older file, would end, and the
others would wait for it until their time is up. Importing this module imports no torch.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from rwp_dist.base.errors import ConfigError, RwpError
from rwp_dist.process import torchrun
from rwp_dist.process.stages import stage

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

LINGER_S = 10.0
"""How long a rank that cannot start waits for the others to come and hear of it."""

BY_HAND_S = 60.0
"""How long ranks wait for each other that nobody looks after. The variables that make this process
one of them may be left over in a shell, so that nobody else ever comes."""

PATIENCE_S = 1800.0
"""The same for ranks that torchrun or Kubernetes looks after: images and torch may load slowly."""

CONNECT_S = 60.0
"""How long ranks of torchrun look for its store, which is there before them."""

POLL_S = 0.05


@contextmanager
def refused_together() -> Iterator[None]:
    """A user's error in the block ends the ranks that wait for this one in ``meet``, too."""
    try:
        yield
    except RwpError as error:
        if torchrun.world_size() > 1 and torchrun.master() is not None:
            with stage("telling the other ranks that this one cannot start", every_rank=True):
                _refuse(error)
        raise


def waiting() -> AbstractContextManager[None]:
    """The stage of a block in which ranks meet."""
    place = torchrun.endpoint(*(torchrun.master() or ("", 0)))
    this = f"RANK {torchrun.rank()} of WORLD_SIZE {torchrun.world_size()}"
    return stage(f"waiting for the other ranks at {place} (this is {this})", every_rank=True)


def meet() -> "Store":
    """Wait until all ranks can start; returns torchrun's store, through which they have met.

    Raises:
        ConfigError: one of them cannot; or nobody looks after them, and one has not come.
        RwpError: one has not come.
    """
    deadline = time.monotonic() + (PATIENCE_S if _looked_after() else BY_HAND_S)
    store = _store(deadline)
    if store.add("met", 1) == torchrun.world_size() and not store.check(["refusal"]):
        store.set("refusal", "")
    while not store.check(["refusal"]):  # not `wait`, during which no signal is obeyed
        if time.monotonic() > deadline:
            raise _missing("")
        time.sleep(POLL_S)
    refusal = store.get("refusal").decode()
    if refusal:
        store.add("heard", 1)
        raise ConfigError(refusal, cure="then start all ranks again")
    return store


def _refuse(error: RwpError) -> None:
    where = f"rank {torchrun.rank()} on {torchrun.node_name()}"
    # Another rank that has ended may have held the store; this one's own error comes first.
    with suppress(RuntimeError, RwpError):
        store = _store(time.monotonic() + BY_HAND_S)
        store.set("refusal", f"{where} cannot start: {str(error).rstrip('.')}")
        store.add("met", 1)
        heard, deadline = store.add("heard", 1), time.monotonic() + LINGER_S
        # This process, or the agent that ends with it, may hold the store.
        while heard < torchrun.world_size() and time.monotonic() < deadline:
            time.sleep(POLL_S)
            heard = store.add("heard", 0)


def _looked_after() -> bool:
    return torchrun.by_agent() or "KUBERNETES_SERVICE_HOST" in os.environ


def _store(deadline: float) -> "Store":
    """The store at MASTER_ADDR and MASTER_PORT, which rank 0 holds unless torchrun does.

    Raises:
        ConfigError: there is no such address, or nobody looks after these ranks and none holds it.
        RwpError: none holds it until the deadline.
    """
    host, port = _place()
    import torch.distributed as dist

    # torchrun's agent holds it for its ranks.
    holds = torchrun.rank() == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    if not holds:
        if torchrun.by_agent():
            deadline = min(deadline, time.monotonic() + CONNECT_S)
        _until_it_answers(host, port, deadline)

    def connect() -> "Store":
        return dist.TCPStore(  # type: ignore[attr-defined]
            host,
            port,
            torchrun.world_size(),
            is_master=holds,
            timeout=timedelta(seconds=PATIENCE_S),
            wait_for_workers=False,  # no signal is obeyed meanwhile
            multi_tenant=True,
        )

    try:
        # At least some seconds: to load torch may have taken all the time there was.
        store = _within(max(deadline, time.monotonic() + 5.0), connect)
    except RuntimeError as error:
        raise _missing(str(error)) from error
    return dist.PrefixStore("meeting", store)  # type: ignore[attr-defined]


def _place() -> tuple[str, int]:
    """MASTER_ADDR and MASTER_PORT.

    Raises:
        ConfigError: they say no place.
    """
    if place := torchrun.master():
        return place
    this = f"rank {torchrun.rank()} of {torchrun.world_size()}"
    alone = "unset RANK WORLD_SIZE to train alone"
    if os.environ.get("MASTER_ADDR", "").strip():
        port = os.environ.get("MASTER_PORT", "").strip()
        what = f"{port!r:.40} is no port" if port else "it is not set"
        raise ConfigError(
            f"{what}, so {this} cannot meet the others",
            key="MASTER_PORT",
            cure=f"set it to a free port of MASTER_ADDR, such as 29500, on all ranks, or {alone}",
        )
    raise ConfigError(
        f"this is {this}, and nothing says where they meet",
        key="WORLD_SIZE",
        cure=f"{alone}, or start all ranks with torchrun, which sets MASTER_ADDR and MASTER_PORT "
        "too",
    )


def _within(deadline: float, connect: Callable[[], "Store"]) -> "Store":
    """What ``connect`` returns; it obeys no signal, and waits long for what answers wrongly.

    Raises:
        RuntimeError: its time is over.
        Exception: of ``connect``.
    """
    future: Future[Store] = Future()

    def run() -> None:
        try:
            future.set_result(connect())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()  # a pool would be waited for at the end
    while not future.done():
        if time.monotonic() > deadline:
            raise RuntimeError("what answers there is no rank")
        time.sleep(POLL_S)
    return future.result()


def _until_it_answers(host: str, port: int, deadline: float) -> None:
    """Torch itself would look for more than the time it is given, and obey no signal meanwhile."""
    while True:
        try:
            socket.create_connection((host, port), timeout=5.0).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise _missing(error.strerror or str(error)) from error
            time.sleep(POLL_S)


def _missing(why: str) -> RwpError:
    """Why ranks have not met. It is not final where somebody may start them again."""
    variables = f"RANK={torchrun.rank()} and WORLD_SIZE={torchrun.world_size()}"
    place = torchrun.endpoint(*(torchrun.master() or ("", 0)))
    kind = RwpError if _looked_after() else ConfigError
    if "EADDRINUSE" in why or "address already in use" in why:
        return kind(
            f"something else uses the port of {place}, at which ranks are to meet",
            key="MASTER_PORT",
            cure=f"choose another, or unset RANK WORLD_SIZE if {variables} are left over here",
        )
    more = f" ({why})" if why else ""
    return kind(
        f"{variables} say that this is one of several ranks, but not all of them have come to "
        f"{place}{more}",
        key="WORLD_SIZE",
        cure="unset RANK WORLD_SIZE if they are left over in this shell; otherwise start all ranks "
        "within the same minute, on nodes that reach this address",
    )
