"""From the encoded bytes of one sample to the pixels that the network sees.

As in torchvision's reference recipes: crop, flip, RandAugment or TrivialAugment, and last Cutout
and random erasing, which fill with the data's mean: 0 after normalisation. The fields mean what the
settings of the same names do.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from rwp_dist.base.keyed import Keyed
from rwp_dist.data.image.decode import Decoder
from rwp_dist.data.image.optional import optional_module
from rwp_dist.data.image.pixels import Pixels, fit, from_pixels, mirror, resize
from rwp_dist.data.image.regions import Bounds, Region, cutout, erased, random_resized_crop

Interpolation = Literal["antialias", "fast"]

RATIO = (3 / 4, 4 / 3)
"""Width over height of a random crop, least and most."""


@dataclass
class TrainTransform:
    """Keyed training augmentation; see ``__call__``.

    Raises:
        ConfigError: ``fast`` without OpenCV.
    """

    size: int
    """Side of the result, in pixels."""
    crop: Literal["random_resized", "pad", "none"]
    flip: bool
    scale: Bounds = (0.08, 1.0)
    pad: int = 4
    auto: Literal["none", "randaugment", "trivial"] = "none"
    num_ops: int = 2
    magnitude: int = 9
    cutout: int = 0
    erase: float = 0.0
    fill: Sequence[int] = (128,)
    """What Cutout and erasing write: one value, or one for each channel."""
    decoder: Decoder = field(default_factory=Decoder)
    interpolation: Interpolation = "antialias"

    def __post_init__(self) -> None:
        self._antialias = _antialias(self.interpolation)
        self._auto = None
        if self.auto != "none":
            # torchvision takes a second or more to import.
            from rwp_dist.data.image.auto import AutoAugment

            self._auto = AutoAugment(self.auto, self.size, self.num_ops, self.magnitude)

    def __call__(self, data: bytes, key: tuple[int, ...]) -> Pixels:
        """uint8 ``[size, size, C]`` of a sample, by its bytes and (seed, epoch, sample) alone.

        Raises:
            UndecodableImage: the bytes are no image, or one too narrow to be resized.
        """
        draw = Keyed(*key)
        image = self._cropped(data, draw)
        if self.flip and draw.uniform() < 0.5:
            image = mirror(image)
        if self._auto is not None:
            planes = from_pixels(image).permute(2, 0, 1).contiguous()
            image = self._auto(planes, draw).permute(1, 2, 0).contiguous().numpy()
        if self.cutout:
            image = self._fill(image, cutout(self.size, self.size, self.cutout, draw))
        if self.erase and draw.uniform() < self.erase:
            image = self._fill(image, erased(self.size, self.size, draw))
        return np.ascontiguousarray(image)

    def _cropped(self, data: bytes, draw: Keyed) -> Pixels:
        if self.crop == "random_resized":
            width, height = self.decoder.size(data)
            region = random_resized_crop(width, height, self.scale, RATIO, draw)
            image = self.decoder.decode(data, region)
            return resize(image, self.size, self.size, self._antialias)
        image = fit(self.decoder.decode(data), self.size, self.size, self._antialias)
        if self.crop == "pad" and self.pad:
            padded = np.pad(image, ((self.pad, self.pad), (self.pad, self.pad), (0, 0)))
            top, left = draw.integers(2 * self.pad + 1), draw.integers(2 * self.pad + 1)
            image = padded[top : top + self.size, left : left + self.size]
        return image

    def _fill(self, image: Pixels, region: Region | None) -> Pixels:
        if region is None:
            return image
        if not image.flags.writeable:
            image = image.copy()
        left, top, width, height = region
        image[top : top + height, left : left + width] = self.fill
        return image


@dataclass
class EvalTransform:
    """Resize and centre crop: the shorter side becomes ``round(size / crop_ratio)``.

    Raises:
        ConfigError: ``fast`` without OpenCV.
    """

    size: int
    """Side of the result, in pixels."""
    crop_ratio: float = 0.875
    decoder: Decoder = field(default_factory=Decoder)
    interpolation: Interpolation = "antialias"
    change: Callable[[Pixels, int], Pixels] | None = None
    """From the pixels of a sample and its number in the data set to other pixels, to see how a
    network bears them."""

    def __post_init__(self) -> None:
        self._antialias = _antialias(self.interpolation)

    def __call__(self, data: bytes, key: tuple[int, ...] = (0,)) -> Pixels:
        """uint8 ``[size, size, C]`` of one sample; ``key``: its number in the data set.

        Raises:
            UndecodableImage: the bytes are no image, or one too narrow to be resized.
        """
        short_side = round(self.size / self.crop_ratio)
        image = fit(self.decoder.decode(data), short_side, self.size, self._antialias)
        return image if self.change is None else self.change(image, *key)


def _antialias(interpolation: Interpolation) -> bool:
    if interpolation == "fast":
        optional_module("cv2")  # refused here if it is missing, not in a worker
    return interpolation == "antialias"
