"""1,024 and 4,096 ranks: what each of them does, sends and keeps does not grow with their number.

The real plan, roles, seeds, agreements, bookkeeping and data code, without a network. In an update
each rank takes part in one message of its own, the 32 bytes of ``Consensus``, besides the reduction
of gradients and, for m-arwp and arwp, of their energies.
"""

import sys
import time
import tracemalloc
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.opened import opened
from support.simulated_ranks import Message, SimulatedRanks
from support.small import small_net
from support.stream_sets import CLASSES, write_set

from rwp_dist.base.errors import DataError, ReplicaError
from rwp_dist.base.keyed import key_seed
from rwp_dist.config import load_settings, split_batch
from rwp_dist.config.split import Split
from rwp_dist.config.tree import Settings
from rwp_dist.data import chosen
from rwp_dist.data.open import open_eval, open_train
from rwp_dist.data.stream import TrainStream
from rwp_dist.perturb import METHODS
from rwp_dist.perturb.slots import Slots, loss_scale
from rwp_dist.process.consensus import Consensus
from rwp_dist.process.group import any_rank, from_main, same_on_all_ranks
from rwp_dist.process.replicas import check_replicas
from rwp_dist.process.silence import AGREES, COMPUTES, READS, Silence
from rwp_dist.run.agreement import agree
from rwp_dist.run.checkpoint import _buffers_of_ranks

WORLDS = (1024, 4096)
PER_RANK = 1
STEPS = 3
NETWORK = small_net()


# --- what ranks tell each other ---


def _update(ranks: SimulatedRanks, slots: Slots) -> list[float]:
    """A rank's part in some updates: what is agreed upon, and its weight in the loss."""
    rank, found, consensus = ranks.get_rank(), [], Consensus()
    for _ in range(STEPS):
        valid = PER_RANK - (rank == 5)  # one sample of rank 5 cannot be read
        (slot,) = slots[rank]
        consensus.post(
            clean=0 if slot.perturbed else valid,
            perturbed=valid if slot.perturbed else 0,
            bad=int(rank == 5),
            stop=rank == 77,
        )
        agreed = consensus.take()
        assert agreed.bad == 1 and agreed.stop
        found.append(loss_scale(slot, len(slots), agreed.clean, agreed.perturbed) * valid)
    consensus.close()
    return found


@pytest.mark.parametrize("world_size", WORLDS)
def test_a_step_is_one_message_of_32_bytes_and_the_weights_of_all_samples_sum_to_one(
    world_size: int,
) -> None:
    ranks = SimulatedRanks(world_size)
    slots = Slots(METHODS["m-rwp"], world_size, 1, 0.5)
    weights = np.array(ranks.run(_update, ranks, slots)) / world_size
    np.testing.assert_allclose(weights.sum(0), 1.0)
    for messages in ranks.messages.values():
        assert messages == [Message("all_reduce", 32, 32)] * STEPS


def _start(ranks: SimulatedRanks, identity: dict[str, Any]) -> tuple[str, list[Any]]:
    """What a rank agrees upon before the first step, at a checkpoint, and about an error."""
    assert agree(identity, allow_mixed_code=False) == []
    main = from_main(lambda: f"rank {ranks.get_rank()}")
    assert not any_rank(False) and any_rank(ranks.get_rank() == 9)
    check_replicas(NETWORK, 1)
    buffers = {name: buffer.clone() for name, buffer in NETWORK.named_buffers()}
    assert _buffers_of_ranks(buffers) == []
    try:
        with same_on_all_ranks():
            if ranks.get_rank() in (40, 700):
                raise DataError(f"shard of rank {ranks.get_rank()}")
    except DataError as error:
        return main, [str(error)]
    return main, []


def test_what_a_rank_sends_and_gets_does_not_grow_with_the_number_of_ranks() -> None:
    identity = {"run.seed": 0, "data.train.id": "0" * 16, "code.version": "1"}
    sizes = []
    for world_size in WORLDS:
        ranks = SimulatedRanks(world_size)
        found = ranks.run(_start, ranks, identity)
        assert found == [("rank 0", ["shard of rank 40"])] * world_size
        each = [
            (sum(m.sent for m in own), sum(m.received for m in own))
            for own in ranks.messages.values()
        ]
        sizes.append(np.max(each, axis=0).tolist())
        assert {m.name for own in ranks.messages.values() for m in own} == {
            "all_reduce",
            "broadcast_object_list",
        }
    assert sizes[0] == sizes[1]


def _damaged(ranks: SimulatedRanks) -> str:
    network = NETWORK
    if ranks.get_rank() == 200:
        network = deepcopy(NETWORK)
        with torch.no_grad():
            network.conv1.weight.view(-1)[3] += 1
    try:
        check_replicas(network, 8)
    except ReplicaError as error:
        return error.problem
    return ""


def test_one_of_256_ranks_with_other_weights_is_named() -> None:
    ranks = SimulatedRanks(256)
    (said,) = set(ranks.run(_damaged, ranks))
    assert "rank 200 differ from those of most ranks, first in conv1.weight" in said


# --- roles and seeds ---


@pytest.mark.parametrize("world_size", WORLDS)
def test_roles_alternate_and_every_slot_has_a_seed_of_its_own(world_size: int) -> None:
    slots = Slots(METHODS["m-rwp"], world_size, 3, 0.3, antithetic=True)
    rows = [slots[rank] for rank in range(world_size)]
    perturbed = [slot for row in rows for slot in row if slot.perturbed]
    assert len(perturbed) == slots.num_perturbed == world_size * 3 // 2
    assert sum(slot.sign for slot in perturbed) == len(perturbed) % 2
    assert len({slot.draw for slot in perturbed}) == -(-len(perturbed) // 2)
    assert len({key_seed(0, 7, -1, rank) for rank in range(world_size)}) == world_size


# --- data ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20,000 samples in 80 shards; none is decoded here, so none has to be an image."""
    out = tmp_path_factory.mktemp("data") / "train"
    return write_set(out, num=20_000, per_shard=250, undecodable=range(20_000))


def _settings(folder: Path, node: Path, world_size: int, *more: str) -> Settings:
    return load_settings(
        None,
        [
            f"data.train={folder}",
            f"data.val={folder}",
            f"data.cache_dir={node}",
            "data.workers=0",
            "data.image_size=16",
            "data.channels=3",
            f"model.num_classes={CLASSES}",
            f"batch.global={PER_RANK * world_size}",
            f"batch.per_rank={PER_RANK}",
            *more,
        ],
    )


def _open(settings: Settings, split: Split, rank: int) -> TrainStream:
    """What a rank does with data before its first step."""
    chosen.data_identity(settings)
    stream = open_train(settings, split, rank)
    open_eval(settings, rank, split.world_size)
    return stream


def test_one_rank_of_a_node_opens_the_manifest_and_the_others_the_joined_index_alone(
    folder: Path, tmp_path: Path
) -> None:
    for number in range(2):
        settings = _settings(folder, tmp_path / f"node-{number}", WORLDS[0])
        split = split_batch(settings, WORLDS[0])
        known = [set[str]() for _ in range(8)]
        for local in range(8):
            with opened() as names:
                _open(settings, split, 8 * number + local)
            known[local] = {name for name in names if "proc" not in name}
        there = {Path(name).name for name in known[0]}
        assert "manifest.json" in there and "samples.index" in there
        for names in known[1:]:
            own = {Path(name).name for name in names if str(folder) in name}
            notes = {Path(name).suffix for name in names if str(tmp_path) in name} - {".index"}
            assert own == {"samples.index"} and notes <= {".json"}


@pytest.mark.parametrize("sampling", ["natural", "balanced"])
@pytest.mark.parametrize("world_size", WORLDS)
def test_a_global_batch_has_each_of_its_samples_on_one_rank(
    folder: Path, tmp_path: Path, world_size: int, sampling: str
) -> None:
    settings = _settings(folder, tmp_path / "node", world_size, f"data.sampling={sampling}")
    stream = open_train(settings, split_batch(settings, world_size), 0)
    plan, batch = stream.plan, PER_RANK * world_size
    for step in (0, plan.steps_per_epoch - 1):
        whole = plan.step(0, step)
        of_ranks = [plan.step(0, step, r * PER_RANK, (r + 1) * PER_RANK) for r in range(world_size)]
        for part, found in zip(whole, zip(*of_ranks, strict=True), strict=True):
            assert np.array_equal(part, np.concatenate(found)) and len(part) == batch


def _first_steps(settings: Settings, world_size: int, rank: int) -> TrainStream:
    stream = _open(settings, split_batch(settings, world_size), rank)
    slots = Slots(METHODS["m-rwp"], world_size, 1, 0.5)
    assert len(slots[rank]) == 1 and slots.num_perturbed == world_size // 2
    for step in range(STEPS):
        stream.request(step)
    return stream


def test_memory_calls_and_time_of_a_rank_are_flat(folder: Path, tmp_path: Path) -> None:
    node = tmp_path / "node"
    all_settings = {world: _settings(folder, node, world) for world in WORLDS}

    def rank_of(world_size: int) -> Callable[[], TrainStream]:
        return lambda: _first_steps(all_settings[world_size], world_size, world_size - 3)

    memory, calls = [], []
    for world_size in WORLDS:
        rank_of(world_size)()  # what is made once
        tracemalloc.start()
        kept = [rank_of(world_size)() for _ in range(4)]
        memory.append(tracemalloc.get_traced_memory()[1] / len(kept))
        tracemalloc.stop()
        calls.append(_count_calls(rank_of(world_size)))
    assert memory[1] <= 1.1 * memory[0] and calls[1] <= 1.1 * calls[0]

    least = [float("inf"), float("inf")]
    for _ in range(40):  # a busy machine makes single times longer, never shorter
        for number, world_size in enumerate(WORLDS):
            begin = time.process_time()
            rank_of(world_size)()
            least[number] = min(least[number], time.process_time() - begin)
        if least[1] <= 1.1 * least[0]:
            return
    raise AssertionError(f"a rank of {WORLDS} takes {least} s")


def _count_calls(action: Callable[[], object]) -> int:
    """Calls of functions, in Python and C."""
    count = 0

    def hear(frame: object, event: str, arg: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(hear)
    try:
        action()
    finally:
        sys.setprofile(None)
    return count


# --- the watch over silent ranks ---


def test_of_4096_ranks_that_stand_still_one_looks_at_all_and_no_other_at_more_than_one(
    tmp_path: Path,
) -> None:
    told = list[str]()
    world_size, folder = WORLDS[1], tmp_path / "silence"
    ranks = [Silence(folder, r, world_size, 600.0, told.append) for r in range(world_size)]
    for rank in ranks:
        rank.at(11, COMPUTES if rank is ranks[2345] else AGREES)
        rank.at(11, READS) if rank is ranks[2345] else rank.at(12, AGREES)
    folder.joinpath("stuck").mkdir(parents=True)
    for rank in ranks:
        rank._answer()
    looked = []
    for rank in ranks:
        with opened() as names:
            rank._tell_if_mine()
        looked.append(len(names))
    assert looked[0] == world_size and set(looked[1:]) == {0}
    assert told == ["Rank 2345 reads the samples of the update after 12. The others wait."]
    for rank in ranks:
        rank._forget()
    assert not folder.exists()
