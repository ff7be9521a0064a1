"""Ranks agree on what they train, or none starts."""

import os
from functools import reduce
from unittest.mock import patch

import numpy as np
import pytest
import torch.distributed as dist
from support.ranks import run_ranks

from rwp_dist.base.errors import ConfigError
from rwp_dist.config import Affects, load_settings
from rwp_dist.process import group
from rwp_dist.record.code import version_of
from rwp_dist.record.directory import RunDir
from rwp_dist.record.identity import affects_of, digest, identity_of
from rwp_dist.run.agreement import agree, check_shared, own_places

DATA = {"data.train.id": "1", "data.train.classes": "2", "data.val.id": "3"}
FREE = (Affects.NOTHING, Affects.PLACE)


def identity():
    return identity_of(load_settings(None), ranks=2, data=DATA, git={"commit": "abc"})


def refused(mine, allow_mixed_code=False):
    """What ``agree`` says, or None."""
    try:
        agree(mine, allow_mixed_code=allow_mixed_code)
    except ConfigError as error:
        return str(error)
    return None


def each_key_on_one_rank():
    """Every key of an identity, with what is said if rank 1 alone has another value."""
    mine = identity()
    other = {"other": 1} if dist.get_rank() == 1 else None
    return {key: refused(mine | {key: other} if other else mine) for key in mine}


def test_a_rank_with_another_value_is_refused_if_the_key_affects_what_is_computed():
    said = run_ranks(each_key_on_one_rank, 2)
    assert said[0] == said[1]  # on all ranks, in the same words
    for key, text in said[0].items():
        assert (text is None) == (affects_of(key) in FREE), key
        assert text is None or f"{key}: " in text
    assert {affects_of(key) for key in said[0]} == set(Affects)


def one_differs(key, value, allow_mixed_code=False):
    os.environ["SLURMD_NODENAME"] = f"n{dist.get_rank()}"
    mine = identity() | ({key: value} if dist.get_rank() == 1 else {})
    return refused(mine, allow_mixed_code)


def test_the_sentence_names_node_key_and_both_values():
    said, _ = run_ranks(one_differs, 2, "optimizer.lr", 0.01)
    assert said == (
        "ranks differ in optimizer.lr: 0.1 on rank 0 (n0), 0.01 on rank 1 (n1); start all ranks "
        "with the same settings, data and code."
    )


MIXED = "torch: {} on rank 0 (n0), 2.0.0 on rank 1 (n1)"


def mixed():
    os.environ["SLURMD_NODENAME"] = f"n{dist.get_rank()}"
    mine = identity() | ({"torch": "2.0.0"} if dist.get_rank() == 1 else {})
    return agree(mine, allow_mixed_code=True)


def test_other_versions_are_refused_unless_that_is_allowed():
    said, _ = run_ranks(one_differs, 2, "torch", "2.0.0")
    assert "torch: " in said and "run.allow_mixed_code" in said
    assert run_ranks(one_differs, 2, "torch", "2.0.0", True) == [None, None]
    told = run_ranks(mixed, 2)
    assert told[0] == told[1] == [MIXED.format(version_of("torch"))]
    assert run_ranks(one_differs, 2, "run.seed", 1, True)[0] is not None


def test_of_other_data_the_folders_are_named():
    said, _ = run_ranks(one_differs, 2, "data.val.id", "9")
    assert "data.val.id: 3 (data/digits/test) on rank 0 (n0), 9 (data/digits/test) on" in said


def collectives_of_agreement():
    """Names and bytes of the collectives, where all ranks agree."""
    seen = []

    def counted(name):
        real = getattr(dist, name)

        def call(*args, **options):
            seen.append((name, args[0].nbytes if hasattr(args[0], "nbytes") else None))
            return real(*args, **options)

        return patch.object(dist, name, call)

    names = ("all_reduce", "all_gather_object", "broadcast_object_list", "barrier", "all_gather")
    with counted(names[0]), counted(names[1]), counted(names[2]), counted(names[3]):
        agree(identity(), allow_mixed_code=False)
    return seen


def test_ranks_that_agree_exchange_one_small_message():
    assert run_ranks(collectives_of_agreement, 2) == [[("all_reduce", 64)]] * 2


@pytest.mark.parametrize("odd", [None, 0, 17, 1023])
def test_one_reduction_finds_one_of_1024_ranks(odd):
    one = np.frombuffer(digest(identity(), set(Affects)), dtype=np.int64)
    ranks = [np.stack([one, ~one])] * 1024
    if odd is not None:
        words = np.frombuffer(digest(identity() | {"run.seed": 1}, set(Affects)), dtype=np.int64)
        ranks[odd] = np.stack([words, ~words])
    largest, largest_of_not = reduce(np.maximum, ranks)
    assert (largest == ~largest_of_not).all() == (odd is None)


def own_contents():
    """As on 1,024 ranks, but with real collectives: nobody differs, or rank 0, 1 or 2."""
    rank = dist.get_rank()
    return [group.all_equal(bytes(31) + bytes([rank == odd])) for odd in (None, 0, 1, 2)]


def test_equal_content_is_told_from_one_rank_that_differs():
    assert run_ranks(own_contents, 3) == [[True, False, False, False]] * 3


def on_a_disk_of_its_own(folder, shared):
    run_dir = RunDir(folder / ("shared" if shared else str(dist.get_rank())))
    run_dir.create()
    try:
        check_shared(run_dir)
    except ConfigError as error:
        return str(error)
    dist.barrier()  # until rank 0 has removed its mark
    return sorted(path.name for path in run_dir.path.iterdir())


def test_a_rank_that_does_not_see_the_run_directory_ends_all(tmp_path):
    said = run_ranks(on_a_disk_of_its_own, 2, tmp_path, False)
    assert said[0] == said[1]
    assert said[0].startswith("run.dir: rank 1 on ") and "all nodes share" in said[0]
    assert run_ranks(on_a_disk_of_its_own, 2, tmp_path, True) == [["checkpoints", "logs"]] * 2


def test_a_rank_keeps_the_places_of_its_data_and_takes_the_rest_from_rank_0():
    common = load_settings(None, ["data.train=/shared/t", "tracking.log_every=7"])
    own = load_settings(None, ["data.train=/local/t", "data.workers=1"])
    merged = own_places(common, own)
    assert (merged.data.train, merged.data.val) == ("/local/t", own.data.val)
    assert (merged.tracking.log_every, merged.data.workers) == (7, common.data.workers)
