import pytest
import torch.distributed as dist
from support.ranks import run_ranks

from rwp_dist.base.errors import DataError
from rwp_dist.data.batch import BadRecord
from rwp_dist.process.consensus import Agreed
from rwp_dist.run.bad_samples import BadSamples


def count(folder):
    """Rank 1 cannot have a shard."""
    error = DataError("no such shard", key="data.train", cure="write it again")
    records = [BadRecord(0, -1, str(error), error)] if dist.get_rank() == 1 else []
    with pytest.raises(DataError) as raised:
        BadSamples(folder, limit=9).count(records, Agreed(0.0, 0.0, bad=1, stop=False))
    error = raised.value
    return error.problem, error.key, error.cure, error.shared


def test_a_shard_that_one_rank_cannot_have_ends_all_with_its_error(tmp_path):
    found = run_ranks(count, 2, tmp_path)
    assert found == [("no such shard", "data.train", "write it again", True)] * 2
