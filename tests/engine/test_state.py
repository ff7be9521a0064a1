"""State of an optimizer in checkpoints."""

import torch
from torch import nn

from rwp_dist.engine.state import load_group_state


def test_a_checkpoint_of_fewer_groups_brings_what_they_have_alike():
    """Earlier versions had one group for all parameters where nothing was decayed."""
    groups = [{"params": [nn.Parameter(torch.ones(2))]} for _ in range(3)]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    for saved in ([{"step": torch.tensor(7), "momentum": 0.5}], [{"step": 7, "k": 1}, {"step": 7}]):
        load_group_state(optimizer, saved)
        assert [group["step"] for group in optimizer.param_groups] == [7, 7, 7]
        assert all(g["momentum"] == 0 and "k" not in g for g in optimizer.param_groups)
