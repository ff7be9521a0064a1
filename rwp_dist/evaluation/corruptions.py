"""Corrupted images, the same ones for every run: noise, blur, little contrast, strong compression.

Kinds and strengths follow ImageNet-C (Hendrycks and Dietterich, ICLR 2019, arXiv 1903.12261) at 224
pixels, with milder contrast, because its own leaves small networks nothing. For images of another
side they come close to CIFAR-10-C's at 32:

- noise and the steps of JPEG's quantisation are multiplied by ``sqrt(side / 224)``, because fewer
  pixels average less out;
- blur is multiplied by ``side / 224``, and 0.35 pixels are added to it in squares, because less
  than that would change nothing;
- contrast stays.

Noise is drawn by (strength, sample). All is computed on the CPU, one image at a time, so neither
the device nor batches and ranks matter. Importing this imports no torch.
"""

import io
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from rwp_dist.base.keyed import numpy_generator

if TYPE_CHECKING:
    from rwp_dist.data.image.pixels import Pixels

Apply = Callable[["Pixels", float, np.random.Generator], "Pixels"]

STRENGTHS = (1, 2, 3, 4, 5)
SEED = 1903_12261
"""Of the noise; the same for all runs, so that they see the same images."""


def corrupt(name: str, strength: int, image: "Pixels", sample: int) -> "Pixels":
    """A corrupted image, uint8 ``[H, W, C]`` as the given one.

    Args:
        name: one of ``CORRUPTIONS``.
        strength: one of ``STRENGTHS``.
        image: square; 1 or 3 channels.
        sample: its number in the data set.
    """
    apply, levels = CORRUPTIONS[name]
    return apply(image, levels[strength - 1], numpy_generator(SEED, strength, sample))


def noise(image: "Pixels", deviation: float, draw: np.random.Generator) -> "Pixels":
    """Gaussian noise; ``deviation``: for pixels in [0, 1], at 224."""
    deviation *= math.sqrt(image.shape[0] / 224)
    values = draw.standard_normal(image.shape, dtype=np.float32)
    return np.clip(np.rint(image + 255 * deviation * values), 0, 255).astype(np.uint8)


def blur(image: "Pixels", deviation: float, draw: np.random.Generator) -> "Pixels":
    """Gaussian blur; ``deviation``: in pixels of an image of 224."""
    from torchvision.transforms.v2 import functional as F

    from rwp_dist.data.image import from_pixels

    deviation = math.hypot(0.35, deviation * image.shape[0] / 224)
    radius = min(math.ceil(3 * deviation), image.shape[0] - 1)
    planes = from_pixels(image).permute(2, 0, 1)
    blurred = F.gaussian_blur(planes, [2 * radius + 1] * 2, [deviation] * 2)
    return np.ascontiguousarray(blurred.permute(1, 2, 0).numpy())


def contrast(image: "Pixels", share: float, draw: np.random.Generator) -> "Pixels":
    """``share`` of the contrast, around the mean of the image's grey."""
    from torchvision.transforms.v2 import functional as F

    from rwp_dist.data.image import from_pixels

    flat = F.adjust_contrast(from_pixels(image).permute(2, 0, 1), share)
    return np.ascontiguousarray(flat.permute(1, 2, 0).numpy())


def jpeg(image: "Pixels", coarseness: float, draw: np.random.Generator) -> "Pixels":
    """JPEG and back, by Pillow, because torchvision is about to give up its codecs.

    ``coarseness``: of the quantisation at 224, in percent of the standard's: 100 is quality 50.
    """
    coarseness *= math.sqrt(image.shape[0] / 224)
    quality = 5000 / coarseness if coarseness > 100 else (200 - coarseness) / 2
    file = io.BytesIO()
    Image.fromarray(image.squeeze()).save(file, "jpeg", quality=round(quality))
    return np.asarray(Image.open(file)).reshape(image.shape)


CORRUPTIONS: dict[str, tuple[Apply, tuple[float, ...]]] = {
    "noise": (noise, (0.08, 0.12, 0.18, 0.26, 0.38)),
    "blur": (blur, (1.0, 2.0, 3.0, 4.0, 6.0)),
    "contrast": (contrast, (0.85, 0.7, 0.5, 0.35, 0.2)),
    "jpeg": (jpeg, (200.0, 278.0, 333.0, 500.0, 714.0)),
}
"""What changes an image, and how far at each of ``STRENGTHS``, for images of 224 pixels."""
