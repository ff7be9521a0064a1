"""Weights and buffers of a run's network, as ``load_state_dict`` takes them."""

from pathlib import Path

import torch
from torch import Tensor, nn

from rwp_dist.base.files import write_bytes
from rwp_dist.config import Settings
from rwp_dist.run.evaluate import load_network

Tensors = dict[str, Tensor]


def result_network(settings: Settings, checkpoint: Path) -> nn.Module:
    """The network with the weights that are evaluated, in evaluation mode.

    Raises:
        CheckpointError: the file is not a checkpoint, or not one of this network.
    """
    return load_network(settings, checkpoint, torch.device("cpu")).eval()


def write_safetensors(tensors: Tensors, path: Path) -> None:
    """Write tensors by name. One that has several names is there under each."""
    from safetensors.torch import save

    own = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    write_bytes(path, save(own, metadata={"format": "pt"}))
