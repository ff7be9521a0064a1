"""From the encoded bytes of one sample to the pixels that the network sees.

As in torchvision's reference recipes: crop, flip, RandAugment or another policy, colour jitter, and
last Cutout and random erasing, which fill with the data's mean: 0 after normalisation. The fields
mean what the settings of the same names do.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from rwp_dist.base.keyed import Keyed
from rwp_dist.data.image.decode import Decoder
from rwp_dist.data.image.optional import optional_module
from rwp_dist.data.image.pixels import Encoded, Pixels, from_pixels, mirror
from rwp_dist.data.image.regions import Bounds, Region, cutout, erased, random_resized_crop
from rwp_dist.data.image.view import View, fitted

if TYPE_CHECKING:
    from rwp_dist.data.image.policies import Policy

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
    auto: str = "none"
    """A name of ``policies.POLICIES``, or ``none``."""
    num_ops: int = 2
    magnitude: int = 9
    severity: int = 3
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    cutout: int = 0
    erase: float = 0.0
    fill: Sequence[int] = (128,)
    """What Cutout and erasing write: one value, or one for each channel."""
    decoder: Decoder = field(default_factory=Decoder)
    interpolation: Interpolation = "antialias"

    def __post_init__(self) -> None:
        self._antialias = _antialias(self.interpolation)
        self._policies: list[Policy] = []
        # torchvision takes a second or more to import.
        if self.auto != "none":
            from rwp_dist.data.image.policies import POLICIES, Options

            options = Options(self.size, self.num_ops, self.magnitude, self.severity)
            self._policies.append(POLICIES[self.auto](options))
        if any(self.jitter):
            from rwp_dist.data.image.jitter import ColorJitter

            self._policies.append(ColorJitter(self.jitter))

    def __call__(self, data: Encoded, key: tuple[int, ...], out: Pixels | None = None) -> Pixels:
        """uint8 ``[size, size, C]`` of a sample, by its bytes and (seed, epoch, sample) alone.

        ``out``: contiguous memory for it.

        Raises:
            UndecodableImage: the bytes are no image, or one too narrow to be resized.
        """
        draw = Keyed(*key)
        image = _memory(self.size, self.decoder) if out is None else out
        self._decode(data, draw, image)
        if self._policies:
            planes = from_pixels(image).permute(2, 0, 1).contiguous()
            for policy in self._policies:
                planes = policy(planes, draw)
            image[...] = planes.permute(1, 2, 0).numpy()
        if self.cutout:
            self._fill(image, cutout(self.size, self.size, self.cutout, draw))
        if self.erase and draw.uniform() < self.erase:
            self._fill(image, erased(self.size, self.size, draw))
        return image

    def _decode(self, data: Encoded, draw: Keyed, image: Pixels) -> None:
        """Decode, crop and flip."""

        def view_of(width: int, height: int) -> View:
            if self.crop != "random_resized":
                view = fitted(width, height, self.size, self.size)
            else:
                region = random_resized_crop(width, height, self.scale, RATIO, draw)
                view = View(region, self.size, self.size)
            if self.crop == "pad" and self.pad:
                return view
            return view._replace(mirrored=self._flips(draw))

        self.decoder.decode_view(data, view_of, image, self._antialias)
        if self.crop == "pad" and self.pad:
            padded = np.pad(image, ((self.pad, self.pad), (self.pad, self.pad), (0, 0)))
            top, left = draw.integers(2 * self.pad + 1), draw.integers(2 * self.pad + 1)
            part = padded[top : top + self.size, left : left + self.size]
            image[...] = mirror(part) if self._flips(draw) else part

    def _flips(self, draw: Keyed) -> bool:
        return self.flip and draw.uniform() < 0.5

    def _fill(self, image: Pixels, region: Region | None) -> None:
        if region is not None:
            left, top, width, height = region
            image[top : top + height, left : left + width] = self.fill


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

    def __call__(
        self, data: Encoded, key: tuple[int, ...] = (0,), out: Pixels | None = None
    ) -> Pixels:
        """uint8 ``[size, size, C]`` of one sample; ``key``: its number in the data set.

        ``out``: contiguous memory for it.

        Raises:
            UndecodableImage: the bytes are no image, or one too narrow to be resized.
        """
        image = _memory(self.size, self.decoder) if out is None else out
        short_side = round(self.size / self.crop_ratio)
        self.decoder.decode_view(
            data, lambda w, h: fitted(w, h, short_side, self.size), image, self._antialias
        )
        if self.change is not None:
            image[...] = self.change(image, *key)
        return image


def _memory(size: int, decoder: Decoder) -> Pixels:
    return np.empty((size, size, decoder.channels), dtype=np.uint8)


def _antialias(interpolation: Interpolation) -> bool:
    if interpolation == "fast":
        optional_module("cv2")  # refused here if it is missing, not in a worker
    return interpolation == "antialias"
