"""From the encoded bytes of one sample to the pixels that the network sees.

Order as in torchvision's reference recipes: crop, flip, RandAugment or TrivialAugment, then
Cutout and random erasing, which fill with the mean and so with 0 after normalisation.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from rwp_dist.base.keyed import Keyed
from rwp_dist.data.image.auto import AutoAugment
from rwp_dist.data.image.decode import Decoder
from rwp_dist.data.image.optional import optional_module
from rwp_dist.data.image.pixels import Pixels, fit, from_pixels, mirror, resize
from rwp_dist.data.image.regions import Range, Region, cutout, erased, random_resized_crop

Crop = Literal["random_resized", "pad", "none"]
Auto = Literal["none", "randaugment", "trivial"]
Interpolation = Literal["antialias", "fast"]

IMAGENET_MEAN = (124, 116, 104)


class TrainTransform:
    """Keyed training augmentation; see ``__call__``.

    Args:
        size: side of the result.
        channels: 1 or 3.
        crop: ``random_resized`` as torchvision's RandomResizedCrop; ``pad`` takes an image of
            ``size`` (others are fitted to it first), pads it with black and crops at random;
            ``none`` only fits.
        scale: bounds of the crop's share of the area, for ``random_resized``.
        ratio: bounds of its width over its height.
        pad: pixels on each side, for ``pad``.
        flip: mirror half of the samples.
        auto: automatic augmentation: RandAugment, TrivialAugmentWide or none.
        num_ops: operations of RandAugment.
        magnitude: their strength, 0 to 30.
        erase: probability of random erasing.
        cutout: side of the one square that is filled in every sample; 0 for none.
        fill: what Cutout and erasing write, one value per channel: the data's mean
            (by default ImageNet's for RGB, 128 for grey).
        decoder: which JPEG library decodes.
        interpolation: ``antialias`` as Pillow and torchvision; ``fast`` is OpenCV's linear.

    Raises:
        ValueError: an argument is out of its range.
        ConfigError: ``fast`` without OpenCV.
    """

    def __init__(
        self,
        size: int,
        channels: int = 3,
        crop: Crop = "random_resized",
        scale: Range = (0.08, 1.0),
        ratio: Range = (3 / 4, 4 / 3),
        pad: int = 4,
        flip: bool = True,
        auto: Auto = "none",
        num_ops: int = 2,
        magnitude: int = 9,
        erase: float = 0.0,
        cutout: int = 0,
        fill: Sequence[int] | None = None,
        decoder: Decoder | None = None,
        interpolation: Interpolation = "antialias",
    ) -> None:
        _check_choice("crop", crop, Crop)
        _check_choice("auto", auto, Auto)
        if not 0 < scale[0] <= scale[1] <= 1 or not 0 < ratio[0] <= ratio[1]:
            raise ValueError(
                f"scale {scale} and ratio {ratio} are (low, high), above 0, scale <= 1."
            )
        if size < 1 or pad < 0 or cutout < 0 or not 0 <= erase <= 1:
            raise ValueError("size is at least 1, pad and cutout at least 0, erase is 0 to 1.")
        self.size = size
        self.crop = crop
        self.scale = scale
        self.ratio = ratio
        self.pad = pad
        self.flip = flip
        self.auto = None if auto == "none" else AutoAugment(auto, size, num_ops, magnitude)
        self.erase = erase
        self.cutout = cutout
        self.fill = np.array(fill or _default_fill(channels), dtype=np.uint8)
        if self.fill.shape != (channels,):
            raise ValueError(f"fill has {self.fill.size} values for {channels} channels.")
        self.decoder = _check_decoder(decoder, channels)
        self.antialias = _antialias(interpolation)

    def __call__(self, data: bytes, key: tuple[int, ...]) -> Pixels:
        """uint8 ``[size, size, C]`` of one sample, by its bytes and (seed, epoch, sample) alone.

        Raises:
            UndecodableImage: the bytes are no image, or one too narrow to be resized.
        """
        draw = Keyed(*key)
        image = self._cropped(data, draw)
        if self.flip and draw.uniform() < 0.5:
            image = mirror(image)
        if self.auto is not None:
            planes = from_pixels(image).permute(2, 0, 1).contiguous()
            image = self.auto(planes, draw).permute(1, 2, 0).contiguous().numpy()
        if self.cutout:
            image = self._fill(image, cutout(self.size, self.size, self.cutout, draw))
        if self.erase and draw.uniform() < self.erase:
            image = self._fill(image, erased(self.size, self.size, draw))
        return np.ascontiguousarray(image)

    def _cropped(self, data: bytes, draw: Keyed) -> Pixels:
        if self.crop == "random_resized":
            width, height = self.decoder.size(data)
            region = random_resized_crop(width, height, self.scale, self.ratio, draw)
            image = self.decoder.decode(data, region)
            return resize(image, self.size, self.size, self.antialias)
        image = fit(self.decoder.decode(data), self.size, self.size, self.antialias)
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


class EvalTransform:
    """Resize and centre crop: the shorter side becomes ``round(size / crop_ratio)``.

    Raises:
        ValueError: ``crop_ratio`` is not in (0, 1].
        ConfigError: ``fast`` without OpenCV.
    """

    def __init__(
        self,
        size: int,
        channels: int = 3,
        crop_ratio: float = 0.875,
        decoder: Decoder | None = None,
        interpolation: Interpolation = "antialias",
    ) -> None:
        if size < 1 or not 0 < crop_ratio <= 1:
            raise ValueError(f"size {size} is at least 1, crop_ratio {crop_ratio} is in (0, 1].")
        self.size = size
        self.short_side = round(size / crop_ratio)
        self.decoder = _check_decoder(decoder, channels)
        self.antialias = _antialias(interpolation)

    def __call__(self, data: bytes, key: tuple[int, ...] = ()) -> Pixels:
        """uint8 ``[size, size, C]`` of one sample; nothing is drawn, so ``key`` is not used.

        Raises:
            UndecodableImage: the bytes are no image, or one too narrow to be resized.
        """
        return fit(self.decoder.decode(data), self.short_side, self.size, self.antialias)


def _check_choice(name: str, value: str, choices: object) -> None:
    if value not in get_args(choices):
        raise ValueError(f"{name} is one of {get_args(choices)}, not {value!r}.")


def _check_decoder(decoder: Decoder | None, channels: int) -> Decoder:
    if decoder is None:
        return Decoder("auto", channels)
    if decoder.channels != channels:
        raise ValueError(f"a decoder of {decoder.channels} channels for images of {channels}.")
    return decoder


def _antialias(interpolation: Interpolation) -> bool:
    _check_choice("interpolation", interpolation, Interpolation)
    if interpolation == "fast":
        optional_module("cv2")
    return interpolation == "antialias"


def _default_fill(channels: int) -> tuple[int, ...]:
    return IMAGENET_MEAN if channels == 3 else (128,)
