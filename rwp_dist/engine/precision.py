"""What each ``precision`` computes in."""

from contextlib import AbstractContextManager

import torch

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Types of convolutions and matrix products, by ``precision``. Weights stay in fp32."""


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Around a forward pass."""
    dtype = AUTOCAST.get(precision)
    context: AbstractContextManager[None] = torch.autocast(
        device.type, dtype or torch.bfloat16, enabled=dtype is not None
    )
    return context
