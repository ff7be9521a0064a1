"""Non-negative floats in three bytes: what the state of adaptive noise is kept in."""

import torch
from torch import Tensor


class Float24:
    """A table of fp32 values without their signs and their seven lowest bits.

    The whole range of fp32 and 16 bits of mantissa: a value that is written, to the nearest, and
    read again differs by 2^-17 of itself at most, and one that has been read is written exactly.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        """``size`` zeros."""
        self._high = torch.zeros(size, dtype=torch.int16, device=device)
        self._low = torch.zeros(size, dtype=torch.uint8, device=device)

    def read(self) -> Tensor:
        """All values, fp32 ``[size]``."""
        high, low = self._high.to(torch.int32) << 15, self._low.to(torch.int32) << 7
        # The highest bit went into the sign's place, and shifting has repeated it there.
        return (high & 0x7FFFFFFF).add_(low).view(torch.float32)

    def write(self, values: Tensor) -> None:
        """Keep fp32 ``[size]``, none below zero."""
        bits = (values.view(torch.int32) << 1).add_(128)
        self._high.copy_(bits >> 16)
        self._low.copy_(bits >> 8)

    @property
    def num_bytes(self) -> int:
        """Bytes that are kept."""
        return self._high.nbytes + self._low.nbytes
