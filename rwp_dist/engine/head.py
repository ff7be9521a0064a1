"""The last layer of a network, which some methods treat unlike the others."""

from torch import nn


def find_head(model: nn.Module) -> nn.Linear | None:
    """The last linear layer, which makes the logits; None: there is none."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return layers[-1] if layers else None
