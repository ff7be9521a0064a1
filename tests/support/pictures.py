"""Small pictures, and their encoded files."""

import io

import numpy as np
from PIL import Image


def picture(height=61, width=83, channels=3, seed=0):
    """Smooth shapes and noise, so that subsampling, DCT and cropping all show."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (8, 8, channels), dtype=np.uint8).squeeze()
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    noise = rng.integers(-30, 31, smooth.shape)
    return Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8))


def encoded(image, kind="jpeg", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
