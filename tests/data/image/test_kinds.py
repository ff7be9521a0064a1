"""Files of every kind have Pillow's pixels, or are refused where Pillow refuses them."""

import numpy as np
import pytest
from support.kinds import JPEGS, OTHERS, by_pillow
from support.tiers import TIERS

from rwp_dist.data.image import Decoder, UndecodableImage, why_undecodable
from rwp_dist.data.image.regions import Region
from rwp_dist.data.image.tiers import crop

KINDS = {f"jpeg: {name}": data for name, data in JPEGS.items()} | OTHERS
NOT_RUN = {"postscript"}
"""What Pillow hands to another program, where there is one."""


def expected(kind, channels):
    return None if kind in NOT_RUN else by_pillow(KINDS[kind], channels)


def regions(width, height):
    """The first and last rows, a part in the middle, all."""
    yield Region(0, 0, width, max(height // 4, 1))
    yield Region(0, height - 1, width, 1)
    yield Region(width // 3, height // 3, max(width // 3, 1), max(height // 3, 1))
    yield Region(0, 0, width, height)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_tier_has_pillows_pixels_whole_and_in_crops(tier, kind):
    data = KINDS[kind]
    for channels in (1, 3):
        decoder, wanted = Decoder(tier, channels), expected(kind, channels)
        if wanted is None:
            for region in (None, Region(0, 0, 1, 1)):
                with pytest.raises(UndecodableImage):
                    decoder.decode(data, region)
            continue
        height, width, _ = wanted.shape
        assert np.array_equal(decoder.decode(data), wanted)
        for region in regions(width, height):
            assert np.array_equal(decoder.decode(data, region), crop(wanted, region)), region


def test_the_verdict_is_pillows():
    for kind, data in KINDS.items():
        assert (why_undecodable(data) == "") == (expected(kind, 3) is not None), kind


def test_postscript_under_the_name_of_an_image_is_not_run(tmp_path, monkeypatch):
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/run\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    assert "PostScript" in why_undecodable(OTHERS["postscript"])
    with pytest.raises(UndecodableImage):
        Decoder("auto").decode(OTHERS["postscript"])
    assert not (tmp_path / "run").exists()


def test_there_are_good_and_bad_ones():
    bad = {kind for kind in KINDS if expected(kind, 3) is None}
    assert {"jpeg: 12 bits", "jpeg: two-components", "heic", "nothing"} <= bad
    assert len(KINDS) - len(bad) > 50
