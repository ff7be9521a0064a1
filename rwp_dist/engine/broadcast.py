"""All ranks begin with the same network."""

import torch
from torch import nn


def broadcast_tensors(model: nn.Module) -> None:
    """Give every rank the parameters and buffers of rank 0, of whatever type and layout."""
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            content = tensor.detach().contiguous().view(-1)
            if len(content):
                torch.distributed.broadcast(content.view(torch.uint8), 0)
                if content.data_ptr() != tensor.data_ptr():
                    tensor.copy_(content.view(tensor.shape))
