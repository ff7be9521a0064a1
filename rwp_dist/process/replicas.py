"""Whether all ranks hold the same weights, to the last bit."""

import torch
import torch.distributed as dist
from torch import nn

from rwp_dist.base.errors import ReplicaError
from rwp_dist.process.group import differing


def check_replicas(model: nn.Module, step: int) -> None:
    """Compare the bits of all parameters between ranks.

    Raises:
        ReplicaError: they differ; names the rank that most others contradict, and the parameter.
    """
    names, sums = [], []
    for name, param in model.named_parameters():
        bits = param.detach().contiguous().view(-1).view(torch.uint8)
        bits = torch.nn.functional.pad(bits, (0, -bits.numel() % 8)).view(torch.int64)
        # Position-dependent odd factors, so that two equal changes do not cancel.
        factors = torch.arange(1, 2 * bits.numel() + 1, 2, device=bits.device)
        names.append(name)
        sums.append((bits * factors).sum())
    mine = torch.stack(sums)
    if not differing(mine):
        return
    gathered = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, mine)
    ranks = torch.stack(gathered).cpu()
    differs = (ranks != ranks[0]).any(0).nonzero()
    column = ranks[:, int(differs[0])]
    values, votes = column.unique(return_counts=True)
    # Where votes are equal, as with two ranks, rank 0 counts as right.
    right = column[0] if (column == column[0]).sum() == votes.max() else values[votes.argmax()]
    rank = int((column != right).nonzero()[0])
    others = "most ranks" if len(column) > 2 else f"rank {1 - rank}"
    raise ReplicaError(
        f"After step {step} the weights of rank {rank} differ from those of {others}, first in "
        f"{names[int(differs[0])]} ({len(differs)} of {len(names)} parameters); a rank's hardware "
        "or a change of weights outside the optimizer is the likely cause",
        cure="leave that node out, remove the last checkpoint, and start the same command again",
    )
