"""RandAugment and TrivialAugmentWide with torchvision v2's operations and ranges, and keyed draws.

Cubuk et al., "RandAugment", 2020; Müller and Hutter, "TrivialAugment", 2021. As in torchvision's
reference recipes: 31 magnitude bins, bilinear interpolation, black outside the image.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from rwp_dist.base.keyed import Keyed

NUM_BINS = 31


class Magnitudes(NamedTuple):
    """Of one operation. If ``signed``, half of the draws are negative."""

    values: list[float]
    signed: bool


class AutoAugment:
    """``randaugment``: ``num_ops`` operations of one magnitude. ``trivial``: one of any magnitude.

    Args:
        policy: which of the two.
        size: side of the images, in pixels.
        num_ops: operations of RandAugment.
        magnitude: their bin, 0 to 30.
    """

    def __init__(self, policy: str, size: int, num_ops: int, magnitude: int) -> None:
        self.trivial = policy == "trivial"
        self.num_ops = 1 if self.trivial else num_ops
        self.magnitude = magnitude
        self.space = trivial_space() if self.trivial else randaugment_space(size)
        self._names = list(self.space)

    def __call__(self, image: Tensor, draw: Keyed) -> Tensor:
        """The augmented image; uint8 ``[C, H, W]`` in and out."""
        for _ in range(self.num_ops):
            name = self._names[draw.integers(len(self._names))]
            values, signed = self.space[name]
            magnitude = 0.0
            if values:
                magnitude = values[draw.integers(NUM_BINS) if self.trivial else self.magnitude]
                if signed and draw.uniform() < 0.5:
                    magnitude = -magnitude
            image = OPERATIONS[name](image, magnitude)
        return image


def randaugment_space(size: int) -> dict[str, Magnitudes]:
    """Operations of torchvision's ``RandAugment`` for images of a size."""
    return _space(shear=0.3, translate=150.0 / 331.0 * size, rotate=30.0, colour=0.9, bits=(8, 4))


def trivial_space() -> dict[str, Magnitudes]:
    """Operations of torchvision's ``TrivialAugmentWide``."""
    return _space(shear=0.99, translate=32.0, rotate=135.0, colour=0.99, bits=(8, 2))


def augmix_space(size: int) -> dict[str, Magnitudes]:
    """Operations of torchvision's ``AugMix`` for images of a size, in 10 bins."""
    space = _space(
        shear=0.3, translate=size / 3.0, rotate=30.0, colour=0.9, bits=(4, 0), num_bins=10
    )
    return {name: space[name] for name in AUGMIX}


AUGMIX = (
    *("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Posterize", "Solarize"),
    *("AutoContrast", "Equalize", "Brightness", "Color", "Contrast", "Sharpness"),
)
"""In torchvision's order."""


def _space(
    shear: float,
    translate: float,
    rotate: float,
    colour: float,
    bits: tuple[int, int],
    num_bins: int = NUM_BINS,
) -> dict[str, Magnitudes]:
    """``bits``: that Posterize leaves, in the first bin and in the last."""

    def signed(largest: float) -> Magnitudes:
        return Magnitudes(torch.linspace(0.0, largest, num_bins).tolist(), True)

    most, least = bits
    posterize = (most - torch.arange(num_bins) / ((num_bins - 1) / (most - least))).round()
    none = Magnitudes([], False)
    return {
        "Identity": none,
        "ShearX": signed(shear),
        "ShearY": signed(shear),
        "TranslateX": signed(translate),
        "TranslateY": signed(translate),
        "Rotate": signed(rotate),
        "Brightness": signed(colour),
        "Color": signed(colour),
        "Contrast": signed(colour),
        "Sharpness": signed(colour),
        "Posterize": Magnitudes(posterize.tolist(), False),
        "Solarize": Magnitudes(torch.linspace(1.0, 0.0, num_bins).tolist(), False),
        "AutoContrast": none,
        "Equalize": none,
    }


def _affine(
    image: Tensor,
    translate: tuple[float, float] = (0, 0),
    shear: tuple[float, float] = (0, 0),
    center: list[float] | None = None,
) -> Tensor:
    return F.affine(
        image,
        angle=0.0,
        translate=[int(t) for t in translate],
        scale=1.0,
        shear=[math.degrees(math.atan(s)) for s in shear],
        interpolation=InterpolationMode.BILINEAR,
        center=center,
    )


OPERATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "Identity": lambda image, m: image,
    "ShearX": lambda image, m: _affine(image, shear=(m, 0), center=[0, 0]),
    "ShearY": lambda image, m: _affine(image, shear=(0, m), center=[0, 0]),
    "TranslateX": lambda image, m: _affine(image, translate=(m, 0)),
    "TranslateY": lambda image, m: _affine(image, translate=(0, m)),
    "Rotate": lambda image, m: F.rotate(image, m, InterpolationMode.BILINEAR),
    "Brightness": lambda image, m: F.adjust_brightness(image, 1.0 + m),
    "Color": lambda image, m: F.adjust_saturation(image, 1.0 + m),
    "Contrast": lambda image, m: F.adjust_contrast(image, 1.0 + m),
    "Sharpness": lambda image, m: F.adjust_sharpness(image, 1.0 + m),
    "Posterize": lambda image, m: F.posterize(image, int(m)),
    "Solarize": lambda image, m: F.solarize(image, 255.0 * m),
    "AutoContrast": lambda image, m: F.autocontrast(image),
    "Equalize": lambda image, m: F.equalize(image),
}
