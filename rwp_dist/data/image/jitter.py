"""Colour jitter with torchvision v2's operations, ranges and order, and keyed draws."""

from collections.abc import Callable, Sequence

from torch import Tensor
from torchvision.transforms.v2 import functional as F

from rwp_dist.base.keyed import Keyed

OPERATIONS: tuple[Callable[[Tensor, float], Tensor], ...] = (
    F.adjust_brightness,
    F.adjust_contrast,
    F.adjust_saturation,
    F.adjust_hue,
)
"""In the order of the strengths."""


class ColorJitter:
    """Brightness, contrast, saturation and hue in a random order, as torchvision's ``ColorJitter``.

    Args:
        strengths: of these four; 0 leaves one out. The first three are multiplied by 1 ± this, at
            least by 0. Hue is turned by ± this, 1 being the whole circle.
    """

    def __init__(self, strengths: Sequence[float]) -> None:
        *factors, hue = strengths
        self.ranges = [(max(0.0, 1.0 - s), 1.0 + s) for s in factors] + [(-hue, hue)]

    def __call__(self, image: Tensor, draw: Keyed) -> Tensor:
        """The image in other colours; uint8 ``[C, H, W]`` in and out."""
        order = draw.permutation(len(OPERATIONS))
        values = [draw.uniform(low, high) if low < high else None for low, high in self.ranges]
        for number in order:
            value = values[number]
            if value is not None:
                image = OPERATIONS[number](image, value)
        return image
