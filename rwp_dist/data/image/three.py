"""3-Augment: one of grey, solarised and blurred (Touvron, Cord and Jegou, "DeiT III", 2022).

Its crop, flip and colour jitter are settings of their own: DeiT III has ``jitter`` 0.3 of
brightness, contrast and saturation. torchvision has no such transform; these are its operations,
with the ranges of DeiT's ``new_data_aug_generator``.
"""

import math
from collections.abc import Callable

from torch import Tensor
from torchvision.transforms.v2 import functional as F

from rwp_dist.base.keyed import Keyed

SIGMAS = (0.1, 2.0)
"""Least and largest standard deviation of the blur, in pixels."""
THRESHOLD = 128.0
"""Solarising inverts pixels from this value on."""


def three_augment(image: Tensor, draw: Keyed) -> Tensor:
    """One of three, evenly; uint8 ``[C, H, W]`` in and out."""
    return CHOICES[draw.integers(len(CHOICES))](image, draw)


def grey(image: Tensor, draw: Keyed) -> Tensor:
    """Luminance in every channel."""
    return F.rgb_to_grayscale(image, num_output_channels=image.shape[0])


def solarised(image: Tensor, draw: Keyed) -> Tensor:
    """Bright pixels inverted."""
    return F.solarize(image, THRESHOLD)


def blurred(image: Tensor, draw: Keyed) -> Tensor:
    """A Gaussian of a random width; its kernel reaches over three standard deviations."""
    sigma = draw.uniform(*SIGMAS)
    # torchvision mirrors the image at its border, which is possible up to its size.
    radius = min(math.ceil(3 * sigma), *(side - 1 for side in image.shape[-2:]))
    return F.gaussian_blur(image, [2 * radius + 1] * 2, [sigma] * 2)


CHOICES: tuple[Callable[[Tensor, Keyed], Tensor], ...] = (grey, solarised, blurred)
