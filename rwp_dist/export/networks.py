"""Weights and buffers of a run's network, as ``load_state_dict`` takes them."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rwp_dist.config import Settings
from rwp_dist.run.checkpoint import read_checkpoint
from rwp_dist.run.evaluate import load_network
from rwp_dist.run.parts import weights_to_evaluate

Tensors = dict[str, Tensor]


def result_network(settings: Settings, checkpoint: Path) -> nn.Module:
    """The network with the weights that are evaluated, in evaluation mode.

    Raises:
        CheckpointError: the file is not a checkpoint, or not one of this network.
    """
    return load_network(settings, checkpoint, torch.device("cpu")).eval()


def other_weights(checkpoint: Path, names: set[str]) -> tuple[str, Tensors] | None:
    """``trained`` or ``average``, whichever is not the result, and weights and buffers of it.

    None if there is no average, or if the checkpoint lacks the buffers that belong to the other
    weights: it was not written by an evaluation.

    Args:
        checkpoint: of the run.
        names: of the network's weights and persistent buffers.
    """
    state = read_checkpoint(checkpoint)
    parts: dict[str, Any] = state["parts"]
    beside = weights_to_evaluate(parts.values(), "beside")
    if not beside and not weights_to_evaluate(parts.values()):
        return None
    tensors = state["weights"] | beside | parts.get("evaluation", {}).get("buffers_beside", {})
    found = {name: tensors[name] for name in names if name in tensors}
    return ("average" if beside else "trained", found) if found.keys() == names else None


def write_safetensors(tensors: Tensors, path: Path) -> None:
    """Write tensors by name. One that has several names is there under each."""
    from safetensors.torch import save_file

    own = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    save_file(own, path, metadata={"format": "pt"})
