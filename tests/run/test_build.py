"""What ranks have in common once the parts of a run are built."""

from unittest.mock import patch

import pytest
import torch.distributed as dist
from support.ranks import run_ranks
from support.small import small_parts, small_settings

from rwp_dist.base.errors import DataError
from rwp_dist.config import load_settings
from rwp_dist.perturb.normals import native
from rwp_dist.process.group import same_on_all_ranks
from rwp_dist.run.build import build_parts
from rwp_dist.shards.digits import write_digits


def backends(lacking, overrides):
    fast = patch.object(native, "is_fast", lambda: dist.get_rank() not in lacking)
    with fast, small_parts(small_settings(*overrides)) as parts:
        return parts.perturbed.backend


def test_one_rank_that_lacks_the_fast_generator_decides_for_all():
    rwp = ("method.name=m-rwp",)
    assert run_ranks(backends, 2, (), rwp) == ["native"] * 2
    assert run_ranks(backends, 2, (1,), rwp) == ["torch"] * 2
    assert run_ranks(backends, 2, (), ("method.name=sam",)) == [None] * 2


def without_shards_on_rank_1(folder):
    where = "nowhere" if dist.get_rank() == 1 else folder
    shards = [f"data.train={where}/train", f"data.val={where}/test"]
    with same_on_all_ranks():
        build_parts(load_settings(None, [*shards, "batch.global=64"]))


def test_shards_that_are_missing_on_one_node_end_all_ranks_at_once(tmp_path):
    write_digits(tmp_path)
    with pytest.raises(DataError, match="nowhere"):
        run_ranks(without_shards_on_rank_1, 2, tmp_path, timeout_s=30)
