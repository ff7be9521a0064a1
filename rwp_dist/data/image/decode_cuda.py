"""JPEGs decoded on the GPU by nvJPEG, a whole list at a time (torchvision's ``decode_jpeg``).

Other formats and files that nvJPEG refuses are decoded on the CPU and copied. Pixels may differ
from libjpeg-turbo's by a few levels: nvJPEG has its own inverse DCT and chroma upsampling.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from rwp_dist.base.errors import ConfigError
from rwp_dist.data.image.decode import (
    MAX_PIXELS,
    Decoder,
    Pixels,
    UndecodableImage,
    from_pixels,
    jpeg_header,
)


def require_cuda() -> None:
    """Refuse the ``cuda`` tier where it cannot work.

    Raises:
        ConfigError: torch sees no CUDA device.
    """
    if not torch.cuda.is_available():
        raise ConfigError(
            "the decoder 'cuda' needs an NVIDIA GPU and torch sees none. "
            "Choose data.decoder=auto, which decodes on the CPU."
        )


class CudaDecoder:
    """Decodes lists of images on one device; not for forked loader workers, which have no CUDA.

    Raises:
        ConfigError: torch sees no CUDA device.
    """

    def __init__(self, channels: int = 3, device: torch.device | str = "cuda") -> None:
        require_cuda()
        self.device = torch.device(device)
        self._cpu = Decoder("auto", channels)
        self._channels = channels

    def decode_batch(self, images: Sequence[bytes]) -> list[Tensor | None]:
        """uint8 ``[C, H, W]`` on the device for every image, None where nothing decodes it."""
        decoded: list[Tensor | None] = [None] * len(images)
        headers = [jpeg_header(data) for data in images]
        jpegs = [
            i
            for i, header in enumerate(headers)
            if header and header.components in (1, 3) and header.width * header.height <= MAX_PIXELS
        ]
        try:
            pixels = nvjpeg([images[i] for i in jpegs], self._channels, self.device)
        except RuntimeError:
            jpegs, pixels = [], []  # one refused file fails the list: all of it goes to the CPU
        for i, image in zip(jpegs, pixels, strict=True):
            decoded[i] = image
        for i in set(range(len(images))).difference(jpegs):
            decoded[i] = self._on_cpu(images[i])
        return decoded

    def _on_cpu(self, data: bytes) -> Tensor | None:
        try:
            pixels = self._cpu.decode(data)
        except UndecodableImage:
            return None
        return from_pixels(pixels).permute(2, 0, 1).contiguous().to(self.device)


def decode_one(data: bytes, channels: int) -> Pixels:
    """One JPEG through the device and back, ``[H, W, C]``: for comparisons, not for speed.

    Raises:
        RuntimeError: nvJPEG refuses the file.
    """
    pixels: Pixels = (
        nvjpeg([data], channels, torch.device("cuda"))[0].permute(1, 2, 0).cpu().numpy()
    )
    return pixels


def nvjpeg(images: Sequence[bytes], channels: int, device: torch.device) -> list[Tensor]:
    """uint8 ``[C, H, W]`` on the device for every JPEG.

    Raises:
        RuntimeError: nvJPEG refuses one of them.
    """
    from torchvision.io import ImageReadMode, decode_jpeg

    if not images:
        return []
    mode = ImageReadMode.RGB if channels == 3 else ImageReadMode.GRAY
    encoded = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in images]
    decoded: list[Tensor] = decode_jpeg(encoded, mode=mode, device=device)
    return decoded
