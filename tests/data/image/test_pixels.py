import importlib.util

import numpy as np
import pytest
import torch
from PIL import Image
from support.pictures import picture
from torchvision.transforms.v2 import functional as F

from rwp_dist.data.image import pixels as module
from rwp_dist.data.image import resize

HAS_CV2 = importlib.util.find_spec("cv2") is not None
needs_cv2 = pytest.mark.skipif(not HAS_CV2, reason="OpenCV is an extra")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_mirrored_image_is_the_same_with_and_without_opencv(channels, monkeypatch):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, channels), dtype=np.uint8)
    expected = np.ascontiguousarray(image[:, ::-1])
    for has_opencv in (True, False):
        monkeypatch.setattr(module, "_has_opencv", lambda has=has_opencv: has)
        np.testing.assert_array_equal(module.mirror(image), expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(20, 30), (61, 30), (130, 90), (224, 224)])
def test_resize_is_torchvisions_and_within_1_of_pillows(channels, size):
    image = picture(channels=channels)
    pixels = np.array(image).reshape(61, 83, channels)[:, 2:]
    ours = resize(pixels, *size)
    theirs = F.resize(torch.from_numpy(pixels.copy()).permute(2, 0, 1), list(size), antialias=True)
    assert ours.shape == (*size, channels)
    assert ours.flags.c_contiguous
    assert np.abs(ours.astype(int) - theirs.permute(1, 2, 0).numpy()).max() <= 1
    pillows = Image.fromarray(pixels.squeeze()).resize(size[::-1], Image.Resampling.BILINEAR)
    assert np.abs(ours.astype(int) - np.asarray(pillows).reshape(ours.shape)).max() <= 1


@needs_cv2
@pytest.mark.parametrize("channels", [1, 3])
def test_fast_resize_agrees_only_where_no_antialiasing_is_needed(channels):
    pixels = np.array(picture(channels=channels)).reshape(61, 83, channels)
    larger = [resize(pixels, 128, 170, antialias).astype(int) for antialias in (True, False)]
    smaller = [resize(pixels, 20, 30, antialias).astype(int) for antialias in (True, False)]
    assert np.abs(larger[0] - larger[1]).max() <= 1
    assert smaller[1].shape == (20, 30, channels)
    assert np.abs(smaller[0] - smaller[1]).max() > 10
