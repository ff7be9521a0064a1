"""How many bytes of tensors an object keeps."""

import torch
from torch import nn


def held_bytes(*objects):
    """Of all storages that objects of this project lead to; parameters are not theirs."""
    storages, seen, left = {}, set(), list(objects)
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, nn.Parameter):
            continue
        if isinstance(one, torch.Tensor):
            storages[one.untyped_storage()._cdata] = one.untyped_storage().nbytes()
        elif isinstance(one, dict):
            left += one.values()
        elif isinstance(one, (list, tuple, set)):
            left += one
        elif type(one).__module__.startswith("rwp_dist"):
            left += vars(one).values()
    return sum(storages.values())
