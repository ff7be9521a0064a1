"""The engine that a run asks for. Only that is imported: DeepSpeed takes seconds."""

import torch
from torch import nn

from rwp_dist.config import Settings, Split
from rwp_dist.engine.engine import Engine
from rwp_dist.engine.sharding import uses_deepspeed


def start_engine(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    settings: Settings,
    split: Split,
    device: torch.device,
    *,
    num_perturbed: int,
    some_unused: bool = False,
) -> Engine:
    """The engine that the settings ask for, with the same weights on every rank.

    Args:
        model: on its device.
        optimizer: of the model's parameters.
        settings: of the run.
        split: how a batch is shared.
        device: of this rank.
        num_perturbed: most perturbed passes of any one rank in one update.
        some_unused: there are trained parameters that take no part in a pass.

    Raises:
        ConfigError: the engine cannot work with this network or these settings.
    """
    if uses_deepspeed(settings):
        from rwp_dist.engine.deepspeed.engine import DeepSpeedEngine

        return DeepSpeedEngine(
            model, optimizer, settings, split, device, num_perturbed=num_perturbed
        )
    from rwp_dist.engine.ddp import DDPEngine

    return DDPEngine(model, optimizer, settings, split, device, some_unused=some_unused)
