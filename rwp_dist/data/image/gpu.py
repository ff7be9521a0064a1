"""Decoding and augmentation of a rank's images on its GPU: ``data.decoder: cuda``.

Worker processes then only read and check bytes; nvJPEG decodes, torchvision resizes. The draws are
those of the CPU's transform, so crops and flips are the same; pixels differ by a few levels.
"""

from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from rwp_dist.base.keyed import Keyed
from rwp_dist.data.image import EvalTransform, TrainTransform
from rwp_dist.data.image.decode import Region, UndecodableImage
from rwp_dist.data.image.decode_cuda import CudaDecoder
from rwp_dist.data.image.regions import cutout, erased, random_resized_crop
from rwp_dist.data.image.transforms import fitted


class GpuTransform:
    """Encoded images and their keys to pixels on one device.

    Raises:
        ConfigError: torch sees no CUDA device.
    """

    def __init__(
        self, transform: TrainTransform | EvalTransform, channels: int, device: torch.device
    ) -> None:
        self._decoder = CudaDecoder(channels, device)
        self._transform = transform
        self._shape = (channels, transform.size, transform.size)

    def __call__(
        self, encoded: Sequence[bytes | None], keys: Sequence[tuple[int, ...]]
    ) -> tuple[Tensor, list[int]]:
        """uint8 ``[N, C, size, size]`` on the device, and the positions that hold no image."""
        device = self._decoder.device
        images = torch.zeros((len(encoded), *self._shape), dtype=torch.uint8, device=device)
        there = [i for i, data in enumerate(encoded) if data is not None]
        decoded = self._decoder.decode_batch([data for data in encoded if data is not None])
        good = set()
        for position, image in zip(there, decoded, strict=True):
            with suppress(UndecodableImage):
                if image is not None:
                    images[position] = self._transformed(image, keys[position])
                    good.add(position)
        return images, [i for i in range(len(encoded)) if i not in good]

    def _transformed(self, image: Tensor, key: tuple[int, ...]) -> Tensor:
        t = self._transform
        if isinstance(t, EvalTransform):
            return fit(image, t.short_side, t.size)
        # In the order of TrainTransform: every draw is the one that it would make.
        draw = Keyed(*key)
        if t.crop == "random_resized":
            height, width = image.shape[1:]
            left, top, w, h = random_resized_crop(width, height, t.scale, t.ratio, draw)
            image = F.resize(image[:, top : top + h, left : left + w], [t.size, t.size])
        else:
            image = fit(image, t.size, t.size)
            if t.crop == "pad" and t.pad:
                image = F.pad(image, [t.pad] * 4)
                top, left = draw.integers(2 * t.pad + 1), draw.integers(2 * t.pad + 1)
                image = image[:, top : top + t.size, left : left + t.size]
        if t.flip and draw.uniform() < 0.5:
            image = image.flip(2)
        if t.auto is not None:
            image = t.auto(image.contiguous(), draw)
        if t.cutout:
            image = self._filled(image, cutout(t.size, t.size, t.cutout, draw))
        if t.erase and draw.uniform() < t.erase:
            image = self._filled(image, erased(t.size, t.size, draw))
        return image

    def _filled(self, image: Tensor, region: Region | None) -> Tensor:
        if region is None:
            return image
        assert isinstance(self._transform, TrainTransform)
        image = image.clone()
        left, top, width, height = region
        fill = torch.from_numpy(self._transform.fill).to(image.device).view(-1, 1, 1)
        image[:, top : top + height, left : left + width] = fill
        return image


def fit(image: Tensor, short_side: int, size: int) -> Tensor:
    """Resize the shorter side and crop the centre of ``[C, H, W]``, rounding as torchvision.

    Raises:
        UndecodableImage: the image is too narrow.
    """
    height, width = image.shape[1:]
    image = F.resize(image, list(fitted(height, width, short_side)))
    top = round((image.shape[1] - size) / 2)
    left = round((image.shape[2] - size) / 2)
    return image[:, top : top + size, left : left + size]
