import time
import warnings

import pytest
import torch
import torch.distributed as dist
from support.ranks import RankError, run_ranks
from support.small import small_net

from rwp_dist.base.errors import ConfigError, DataError, ReplicaError
from rwp_dist.process.group import choose_device, from_main, process_group, same_on_all_ranks
from rwp_dist.process.replicas import check_replicas


def caught(world_error):
    """What each rank sees if the ranks in ``world_error`` raise."""
    try:
        with same_on_all_ranks():
            if dist.get_rank() in world_error:
                raise DataError(f"shard of rank {dist.get_rank()}")
    except DataError as error:
        return str(error)
    return None


def test_an_error_of_some_ranks_ends_all_with_the_message_of_the_lowest():
    assert run_ranks(caught, 3, ()) == [None] * 3
    assert run_ranks(caught, 3, (1, 2)) == ["shard of rank 1"] * 3
    assert run_ranks(caught, 1, (0,)) == ["shard of rank 0"]


def ask_main():
    return from_main(lambda: {"rank": dist.get_rank()})


def test_rank_0_decides_for_all():
    assert run_ranks(ask_main, 2) == [{"rank": 0}] * 2


def change_one_bit(rank, name, element, bit):
    model = small_net()
    check_replicas(model, 1)
    if dist.get_rank() == rank:
        values = dict(model.named_parameters())[name].detach().view(-1).view(torch.int32)
        values[element] ^= 1 << bit
    try:
        check_replicas(model, 7)
    except ReplicaError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("name", "element", "bit"),
    [("conv1.weight", 35, 0), ("linear2.bias", 2, 30), ("bn1.bias", 0, 9)],
)
def test_a_single_changed_bit_is_found_and_its_rank_and_parameter_named(name, element, bit):
    for message in run_ranks(change_one_bit, 3, 2, name, element, bit):
        assert message.startswith("After step 7 the weights of rank 2 differ")
        assert f"first in {name} (1 of 10 parameters)" in message


def swap_two_weights():
    model = small_net()
    if dist.get_rank() == 1:
        with torch.no_grad():
            weights = model.conv1.weight.view(-1)
            weights[[0, 2]] = weights[[2, 0]].clone()
    check_replicas(model, 1)


def test_two_exchanged_weights_are_found():
    with pytest.raises(ReplicaError, match=r"rank 1 .*conv1\.weight"):
        run_ranks(swap_two_weights, 2)


def test_a_process_without_torchrun_is_a_group_of_its_own(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # restored after the test
        monkeypatch.delenv(name)
    with process_group(torch.device("cpu")):
        assert dist.get_world_size() == 1 and dist.get_backend() == "gloo"
        with process_group(torch.device("cpu")):
            pass
        assert dist.is_initialized(), "a group that was there is left alone"
    assert not dist.is_initialized()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_refused_with_the_cure():
    with pytest.raises(ConfigError) as refused:
        choose_device("cuda")
    assert (refused.value.key, refused.value.cure) == ("run.device", "set it to cpu")
    assert choose_device("auto") == torch.device("cpu")


# --- the harness itself ---


def wait_for_nobody():
    time.sleep(3600)


def test_a_deadlock_is_shown_with_the_stacks_of_the_ranks_that_wait():
    with pytest.raises(RankError, match=r"ranks \[0, 1\] hung or died") as caught:
        run_ranks(wait_for_nobody, 2, timeout_s=3)
    assert str(caught.value).count("in wait_for_nobody") == 2


def raise_on_rank_1():
    if dist.get_rank() == 1:
        raise DataError("a message")
    dist.barrier()


def test_an_exception_on_a_rank_is_raised_in_the_test_with_its_traceback():
    with pytest.raises(DataError, match="a message") as caught:
        run_ranks(raise_on_rank_1, 2)
    assert "rank 1" in str(caught.value.__cause__)
    assert "in raise_on_rank_1" in str(caught.value.__cause__)


def warn_in(module):
    warnings.warn_explicit("of old age", DeprecationWarning, f"{module}.py", 1, module=module)


def test_a_warning_of_this_project_is_an_error_on_ranks_too():
    run_ranks(warn_in, 1, "somebody.elses")
    with pytest.raises(DeprecationWarning, match="of old age"):
        run_ranks(warn_in, 1, "rwp_dist.train")
