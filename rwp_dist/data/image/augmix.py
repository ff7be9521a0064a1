"""AugMix with torchvision v2's operations and ranges, and keyed draws.

Hendrycks et al., "AugMix: a simple data processing method to improve robustness and uncertainty",
ICLR 2020 (arXiv 1912.02781). Only its images: the consistency loss between three views of each
image, which the paper trains with as well, is left out, as in torchvision.
"""

from torch import Tensor

from rwp_dist.base.keyed import Keyed
from rwp_dist.data.image.auto import OPERATIONS, augmix_space

WIDTH = 3
"""Chains of operations that are mixed."""
DEPTH = 3
"""Most operations of a chain; it has 1 or more."""
ALPHA = 1.0
"""Of the distributions of the weights."""


class AugMix:
    """The image, mixed with a mixture of three chains of one to three operations.

    Args:
        size: side of the images, in pixels.
        severity: magnitudes are drawn from the first so many of 10 bins.
    """

    def __init__(self, size: int, severity: int) -> None:
        self.space, self.severity = augmix_space(size), severity
        self._names = list(self.space)

    def __call__(self, image: Tensor, draw: Keyed) -> Tensor:
        """The augmented image; uint8 ``[C, H, W]`` in and out."""
        own, of_chains = draw.dirichlet([ALPHA] * 2)
        shares = draw.dirichlet([ALPHA] * WIDTH)
        mix = own * image
        for share in shares:
            chain = image
            for _ in range(1 + draw.integers(DEPTH)):
                chain = self._operation(chain, draw)
            mix.add_(share * of_chains * chain)
        return mix.to(image.dtype)

    def _operation(self, image: Tensor, draw: Keyed) -> Tensor:
        name = self._names[draw.integers(len(self._names))]
        values, signed = self.space[name]
        magnitude = values[draw.integers(self.severity)] if values else 0.0
        if signed and draw.uniform() < 0.5:
            magnitude = -magnitude
        return OPERATIONS[name](image, magnitude)
