"""Thousands of ranks in one process, and collectives that count what they carry.

Each rank is a greenlet: it runs until it waits for the others. The collectives replace those of
``torch.distributed`` while a group runs, and compute what gloo would; only the network is missing.
"""

import pickle
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import torch.distributed as dist
from greenlet import getcurrent, greenlet
from torch import Tensor


class Message(NamedTuple):
    """A rank's part in a collective."""

    name: str
    sent: int
    """Bytes that it gives."""
    received: int
    """Bytes that it gets."""


class _Collective:
    """One collective of all ranks, under way."""

    def __init__(self) -> None:
        self.arrived = 0
        self.value: Any = None


class SimulatedRanks:
    """The ranks of one group."""

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size
        self.messages: dict[int, list[Message]] = defaultdict(list)
        """Of each rank, in order."""
        self._rank = 0
        """The one that runs."""
        self._under_way: dict[int, _Collective] = {}

    def run(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """What ``function(*args)`` returns on each rank."""
        found: list[Any] = [None] * self.world_size

        def work(rank: int) -> None:
            found[rank] = function(*args)

        with self._in_place():
            left = {rank: greenlet(partial(work, rank)) for rank in range(self.world_size)}
            while left:
                before = sum(map(len, self.messages.values())), len(left)
                for self._rank, one in list(left.items()):
                    one.switch()
                    if one.dead:
                        del left[self._rank]
                after = sum(map(len, self.messages.values())), len(left)
                assert before != after, "ranks wait for a collective that others do not join"
        return found

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        names = (
            *("all_reduce", "all_gather", "gather", "broadcast", "barrier", "new_group"),
            *("all_gather_object", "gather_object", "broadcast_object_list"),
            *("get_rank", "get_world_size", "get_backend", "is_initialized"),
            "destroy_process_group",
        )
        with patch.multiple(dist, **{name: getattr(self, name) for name in names}):
            yield

    # --- what torch.distributed offers ---

    def get_rank(self) -> int:
        return self._rank

    def get_world_size(self) -> int:
        return self.world_size

    def get_backend(self) -> str:
        return "gloo"

    def is_initialized(self) -> bool:
        return True

    def new_group(self, **options: Any) -> object:
        return options

    def destroy_process_group(self, group: object = None) -> None:
        pass

    def all_reduce(
        self, tensor: Tensor, op: Any = dist.ReduceOp.SUM, group: Any = None, async_op: bool = False
    ) -> Any:
        def add(before: Tensor | None) -> Tensor:
            if before is None:
                return tensor.clone()
            if op == dist.ReduceOp.SUM:
                return before.add_(tensor)
            extreme = torch.maximum if op == dist.ReduceOp.MAX else torch.minimum
            return extreme(before, tensor, out=before)

        wait = self._join("all_reduce", add, tensor.nbytes, tensor.nbytes)
        work = _Work(lambda: tensor.copy_(wait()))
        if async_op:
            return work
        return work.wait()

    def broadcast(self, tensor: Tensor, src: int) -> None:
        self._hand_out("broadcast", src, tensor.nbytes, tensor.clone, tensor.copy_)

    def broadcast_object_list(self, box: list[Any], src: int) -> None:
        sent = len(pickle.dumps(box)) if self.get_rank() == src else 0
        self._hand_out("broadcast_object_list", src, sent, lambda: list(box), self._into(box))

    def all_gather_object(self, everybody: list[Any], mine: Any) -> None:
        self._collect("all_gather_object", mine, len(pickle.dumps(mine)), everybody, None)

    def gather_object(self, mine: Any, everybody: list[Any] | None, dst: int) -> None:
        self._collect("gather_object", mine, len(pickle.dumps(mine)), everybody, dst)

    def all_gather(self, everybody: list[Tensor], mine: Tensor) -> None:
        self._collect("all_gather", mine, mine.nbytes, everybody, None)

    def gather(self, mine: Tensor, everybody: list[Tensor] | None, dst: int) -> None:
        self._collect("gather", mine, mine.nbytes, everybody, dst)

    def barrier(self) -> None:
        self._join("barrier", lambda before: 0, 0, 0)()

    # --- how ---

    @staticmethod
    def _into(box: list[Any]) -> Callable[[list[Any]], None]:
        def fill(content: list[Any]) -> None:
            box[:] = content

        return fill

    def _hand_out(
        self,
        name: str,
        src: int,
        num_bytes: int,
        give: Callable[[], Any],
        take: Callable[[Any], Any],
    ) -> None:
        mine = self.get_rank() == src
        sent = num_bytes if mine else 0
        take(self._join(name, lambda before: give() if mine else before, sent, num_bytes - sent)())

    def _collect(
        self, name: str, mine: Any, num_bytes: int, everybody: list[Any] | None, dst: int | None
    ) -> None:
        gets = dst in (None, self.get_rank())
        rank = self.get_rank()

        def put(before: dict[int, Any] | None) -> dict[int, Any]:
            found = {} if before is None else before
            found[rank] = mine
            return found

        wait = self._join(name, put, num_bytes, num_bytes * self.world_size if gets else 0)
        found = wait()
        if gets:
            assert everybody is not None, "the rank that gets it has room for it"
            everybody[:] = [found[rank] for rank in range(self.world_size)]

    def _join(
        self, name: str, add: Callable[[Any], Any], sent: int, received: int
    ) -> Callable[[], Any]:
        """Take part in this rank's next collective; returns what waits for its result."""
        number = len(self.messages[self._rank])
        self.messages[self._rank].append(Message(name, sent, received))
        one = self._under_way.setdefault(number, _Collective())
        one.value, one.arrived = add(one.value), one.arrived + 1
        if one.arrived == self.world_size:
            del self._under_way[number]

        def wait() -> Any:
            while one.arrived < self.world_size:
                getcurrent().parent.switch()  # to ``run``, which lets the other ranks go on
            return one.value

        return wait


class _Work:
    """What an asynchronous collective returns."""

    def __init__(self, finish: Callable[[], Any]) -> None:
        self._finish = finish

    def wait(self) -> None:
        self._finish()
