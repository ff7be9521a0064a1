"""Any bytes are an image or not, and every decoder says the same; see ``support.fuzzing``."""

import numpy as np
import pytest
from hypothesis import assume
from support.fuzzing import SECONDS, mutants, search
from support.pictures import encoded, picture
from support.tiers import TIERS

from rwp_dist.data.image import Decoder, UndecodableImage, open_image
from rwp_dist.data.image.regions import Region

WORDS = [bytes([255, marker]) for marker in (0xC0, 0xC2, 0xC4, 0xD0, 0xD8, 0xD9, 0xDA, 0xDB, 0xEE)]
MOST_PIXELS = 1 << 20
"""Larger ones take long, and are not what is searched for."""
ORIGINALS = [
    *(encoded(picture(h, w, c, seed=h), quality=80) for h, w, c in ((17, 40, 3), (30, 21, 1))),
    encoded(picture(24, 33), subsampling="4:2:0", restart_marker_blocks=3),
    encoded(picture(24, 33), progressive=True),
    encoded(picture(20, 20).convert("CMYK")),
    encoded(picture(16, 16), "png"),
    encoded(picture(16, 16).convert("P"), "png"),
    encoded(picture(16, 16), "webp", quality=50),
]


def pixels(decoder, data, region=None):
    """None: no image."""
    try:
        return decoder.decode(data, region)
    except UndecodableImage:
        return None


@pytest.mark.parametrize("seconds", SECONDS)
def test_every_decoder_gives_the_same_pixels_or_refuses(seconds):
    by_channels = {channels: [Decoder(tier, channels) for tier in TIERS] for channels in (1, 3)}

    def holds(data):
        for channels, (*others, pil) in by_channels.items():
            try:
                width, height = open_image(data).size
                assume(width * height <= MOST_PIXELS)
            except UndecodableImage:
                pass
            wanted = pixels(pil, data)
            assert wanted is None or wanted.shape[2] == channels
            assert wanted is None or wanted.dtype == np.uint8
            for decoder in others:
                found = pixels(decoder, data)
                assert (found is None) == (wanted is None), decoder.tier
                assert wanted is None or np.array_equal(found, wanted), decoder.tier
                if wanted is not None:
                    height, width = wanted.shape[:2]
                    region = Region(width // 3, height // 3, -(-width // 3), -(-height // 3))
                    left, top, wide, high = region
                    part = pixels(decoder, data, region)
                    assert np.array_equal(part, wanted[top : top + high, left : left + wide])

    search(holds, mutants(ORIGINALS, WORDS), seconds)
