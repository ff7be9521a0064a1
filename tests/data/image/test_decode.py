import io
import types
import zlib

import numpy as np
import pytest
from PIL import Image
from support.kinds import by_pillow
from support.pictures import encoded, picture
from support.tiers import TIERS

from rwp_dist.data.image import (
    Decoder,
    UndecodableImage,
    open_image,
    tiers,
    why_undecodable,
)
from rwp_dist.data.image.jpeg import libjpeg
from rwp_dist.data.image.jpeg.header import jpeg_header
from rwp_dist.data.image.regions import Region
from rwp_dist.data.image.tiers import crop

needs_simplejpeg = pytest.mark.skipif("simplejpeg" not in TIERS, reason="simplejpeg is an extra")
needs_libjpeg = pytest.mark.skipif("libjpeg" not in TIERS, reason="libjpeg-turbo is optional")


def by_pil(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


ODD = {
    "progressive": encoded(picture(), progressive=True),
    "cmyk": encoded(picture().convert("CMYK")),
    "grey jpeg": encoded(picture(channels=1)),
    "png": encoded(picture(), "png"),
    "palette png": encoded(picture().convert("P"), "png"),
    "transparent png": encoded(picture().convert("RGBA"), "png"),
    "grey png": encoded(picture(channels=1), "png"),
    "webp": encoded(picture(), "webp"),
    "gif": encoded(picture().convert("P"), "gif"),
    "trailing bytes": encoded(picture()) + bytes(100),
    # A warning to libjpeg, and so an error to a strict decoder: 40 bytes too many in the scan.
    "extraneous bytes": encoded(picture())[:-2] + b"\x55" * 40 + b"\xff\xd9",
}


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_all_tiers_give_pillows_pixels(tier, subsampling):
    data = encoded(picture(), quality=90, subsampling=subsampling)
    pixels = Decoder(tier, 3).decode(data)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, by_pil(data))


@pytest.mark.parametrize("tier", TIERS)
def test_grey_is_the_luminance_as_stored(tier):
    image = picture()
    data = encoded(image, quality=90)
    pixels = Decoder(tier, 1).decode(data)
    luminance = Image.open(io.BytesIO(data))
    luminance.draft("YCbCr", luminance.size)
    assert pixels.shape == (61, 83, 1)
    assert np.array_equal(pixels[..., 0], np.asarray(luminance)[..., 0])
    # JPEG's rounding alone lies between this and the picture.
    assert np.abs(pixels[..., 0] - np.asarray(image.convert("L"), dtype=float)).mean() < 4


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(
    "options",
    [
        {"subsampling": "4:4:4"},
        {"subsampling": "4:2:2"},
        {"subsampling": "4:2:0"},
        {"subsampling": "4:2:0", "restart_marker_rows": 1},
        {"subsampling": "4:2:0", "progressive": True},
    ],
)
def test_a_region_is_that_part_of_the_whole(tier, options):
    data = encoded(picture(), quality=92, **options)
    decoder, whole = Decoder(tier, 3), by_pil(data)
    for top in (0, 1, 7, 30, 44, 60):
        for height in {1, min(16, 61 - top), 61 - top}:
            region = Region(5, top, 40, height)
            assert np.array_equal(decoder.decode(data, region), whole[top : top + height, 5:45]), (
                region
            )


@needs_libjpeg
@needs_simplejpeg
@pytest.mark.parametrize("subsampling", ["444", "422", "420", "440", "411", "Gray"])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_region_is_that_part_of_the_whole_to_the_last_bit(subsampling, channels):
    import simplejpeg

    space = "GRAY" if subsampling == "Gray" else "RGB"
    pixels = np.array(picture(channels=1 if space == "GRAY" else 3)).reshape(61, 83, -1)
    data = simplejpeg.encode_jpeg(pixels, 92, space, "444" if space == "GRAY" else subsampling)
    decoder, whole = Decoder("libjpeg", channels), Decoder("simplejpeg", channels).decode(data)
    assert np.array_equal(decoder.decode(data), whole)
    rng = np.random.default_rng(0)
    for _ in range(300):
        left, top = rng.integers(83), rng.integers(61)
        region = Region(left, top, rng.integers(1, 84 - left), rng.integers(1, 62 - top))
        found = libjpeg.decode_region(data, channels, *map(int, region))
        assert np.array_equal(found, crop(whole, region)), region


@needs_libjpeg
@pytest.mark.parametrize("num_scans", [3, 5, 7])
def test_a_region_of_a_progressive_file_that_lacks_scans(num_scans):
    """libjpeg smooths its blocks by their neighbours, also by those beyond the region."""
    data = encoded(picture(), quality=90, progressive=True)
    scans = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
    lacking = data[: scans[num_scans]] + b"\xff\xd9"
    decoder = Decoder("libjpeg", 3)
    whole = decoder.decode(lacking)
    assert not np.array_equal(whole, by_pil(data))
    for region in (Region(0, 0, 83, 61), Region(30, 20, 20, 20), Region(0, 0, 83, 20)):
        left, top, width, height = region
        expected = whole[top : top + height, left : left + width]
        assert np.array_equal(decoder.decode(lacking, region), expected), region


@needs_libjpeg
def test_a_rectangle_that_the_image_does_not_hold_is_refused_by_the_c_code():
    data = encoded(picture())
    for region in (
        (0, 0, 84, 1),
        (83, 0, 1, 1),
        (0, 61, 1, 1),
        (0, 60, 1, 2),
        (2**32 - 1, 0, 2, 1),
    ):
        assert libjpeg.decode_region(data, 3, *region) is None


@needs_simplejpeg
@pytest.mark.parametrize("progressive", [False, True])
def test_rows_below_the_region_are_not_decoded(monkeypatch, progressive):
    import simplejpeg

    def spy(*args, **options):
        heights.append(jpeg_header(args[0]).height)
        return simplejpeg.decode_jpeg(*args, **options)

    heights = []
    fake = types.SimpleNamespace(decode_jpeg=spy)
    monkeypatch.setattr(tiers, "optional_module", lambda name: fake)
    decoder = Decoder("simplejpeg", 3)
    data = encoded(picture(200, 64), progressive=progressive)
    decoder.decode(data, Region(0, 10, 64, 50))
    decoder.decode(data, Region(0, 10, 64, 190))
    assert heights == [62, 200]


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("channels", [1, 3])
def test_odd_files_decode_as_with_pillow(tier, kind, channels):
    data = ODD[kind]
    decoder = Decoder(tier, channels)
    image = Image.open(io.BytesIO(data))
    if channels == 1:
        image.draft("L", image.size)
    expected = np.asarray(image.convert("RGB" if channels == 3 else "L")).reshape(61, 83, channels)
    assert np.array_equal(decoder.decode(data), expected)
    assert np.array_equal(decoder.decode(data, Region(3, 2, 20, 10)), expected[2:12, 3:23])


@needs_simplejpeg
def test_the_fallback_is_needed():
    """Without it the strict decoder would count this file as bad."""
    import simplejpeg

    with pytest.raises(ValueError, match="xtraneous"):
        simplejpeg.decode_jpeg(ODD["extraneous bytes"])


@pytest.mark.parametrize("tier", TIERS)
def test_orientation_is_ignored(tier):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(picture(), exif=exif.tobytes())
    assert Decoder(tier, 3).decode(data).shape == (61, 83, 3)


def claiming(size):
    data = bytearray(ODD["grey jpeg"])
    at = jpeg_header(bytes(data)).height_at
    data[at : at + 4] = size
    return bytes(data)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8\xff",
        b"no image at all",
        encoded(picture())[:-200],
        encoded(picture())[:300],
        encoded(picture(), "png")[:-2000],
        claiming(b"\xff\xff\xff\xff"),
        claiming(b"\0\0\0\x08"),
    ],
    ids=["empty", "marker", "text", "truncated", "header", "truncated png", "huge", "no height"],
)
@pytest.mark.parametrize("region", [None, Region(0, 0, 8, 8)])
def test_undecodable_for_every_tier_and_every_region(tier, data, region):
    with pytest.raises(UndecodableImage):
        Decoder(tier, 3).decode(data, region)


@pytest.mark.parametrize("tier", TIERS)
def test_size_and_memory_are_not_taken_on_trust(tier):
    with pytest.raises(UndecodableImage):
        Decoder(tier, 3).decode(claiming(b"\0\0\0\x08"))
    if tier != "pil":
        with pytest.raises(UndecodableImage, match="60000x60000 is too large"):
            Decoder(tier, 3).decode(claiming(b"\xea\x60\xea\x60"))


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("region", [None, Region(3, 5, 9, 11), Region(0, 0, 24, 4)])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}])
def test_every_cut_and_flip_has_pillows_pixels_or_is_refused_as_there(tier, region, options):
    rng = np.random.default_rng(0)
    decoder, data = Decoder(tier, 3), encoded(picture(24, 24), **options)
    outcomes = {"decoded": 0, "bad": 0}
    for _ in range(100):
        broken = bytearray(data[: rng.integers(len(data))] if rng.random() < 0.3 else data)
        for _ in range(min(rng.integers(1, 5), len(broken))):
            broken[rng.integers(len(broken))] = rng.integers(256)
        changed = bytes(broken)
        expected = by_pillow(changed)
        if expected is None:
            # A header that claims fewer pixels does not hold the region.
            with pytest.raises((UndecodableImage, ValueError)):
                decoder.decode(changed, region)
        elif expected.shape == (24, 24, 3):
            wanted = expected if region is None else crop(expected, region)
            assert np.array_equal(decoder.decode(changed, region), wanted)
        outcomes["bad" if expected is None else "decoded"] += 1
    assert min(outcomes.values()) > 10


@pytest.mark.parametrize(
    "region", [(80, 0, 10, 10), (0, 60, 10, 10), (-10, 0, 5, 5), (0, -1, 5, 5)]
)
def test_a_region_outside_is_refused(region):
    with pytest.raises(ValueError, match="not inside"):
        Decoder("auto", 3).decode(encoded(picture()), Region(*region))


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("num_scans", [1, 4, 8, 9])
def test_a_progressive_file_that_lacks_scans_has_pillows_pixels_in_every_crop(tier, num_scans):
    data = encoded(picture(), quality=85, progressive=True)
    scans = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
    lacking = data[: scans[num_scans]] + b"\xff\xd9"
    decoder, expected = Decoder(tier, 3), by_pil(lacking)
    assert np.array_equal(decoder.decode(lacking), expected)
    for region in (Region(0, 0, 83, 20), Region(30, 20, 20, 20), Region(1, 3, 9, 50)):
        assert np.array_equal(decoder.decode(lacking, region), crop(expected, region))


def damaged(data, marker):
    """The same JPEG with a marker in the middle of its last scan."""
    at = (data.rindex(b"\xff\xda") + len(data)) // 2
    return data[:at] + marker + data[at + len(marker) :]


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("options", [{}, {"progressive": True}])
@pytest.mark.parametrize("marker", [b"\xff\x02", b"\xff\xd8", b"\xff\xc4", b"\xff\xda\x00\x08"])
def test_damage_that_pillow_refuses_is_bad_in_every_crop(tier, options, marker):
    data = damaged(encoded(picture(128, 128), **options), marker)
    assert why_undecodable(data)
    for region in (None, Region(0, 0, 128, 9), Region(9, 60, 20, 9), Region(0, 99, 128, 29)):
        with pytest.raises(UndecodableImage):
            Decoder(tier, 3).decode(data, region)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("marker", [b"\xff\xd9", b"\xff\xd3", b"\xff\xff\x00"])
def test_damage_that_pillow_reads_over_is_good_in_every_crop(tier, options, marker):
    data = damaged(encoded(picture(128, 128), **options), marker)
    decoder, expected = Decoder(tier, 3), by_pil(data)
    assert why_undecodable(data) == ""
    for region in (Region(0, 0, 128, 128), Region(0, 0, 128, 9), Region(9, 99, 20, 29)):
        assert np.array_equal(decoder.decode(data, region), crop(expected, region)), region


@needs_simplejpeg
def test_a_broken_table_below_the_region_does_not_give_what_was_in_memory():
    """simplejpeg takes an error for a warning if there was a warning before it."""
    data = bytearray(encoded(picture(128, 128), progressive=True))
    data[data.rindex(b"\xff\xc4") + 5] = 255
    with pytest.raises(UndecodableImage):
        Decoder("simplejpeg", 3).decode(bytes(data), Region(0, 0, 128, 9))


def grey(kind, values, **options):
    return encoded(Image.fromarray(values), kind, **options)


RAMP = np.linspace(0, 65535, 64 * 48).reshape(48, 64)
UPPER = (RAMP.astype(np.uint16) >> 8).astype(np.uint8)
DEEP = {
    "png": (grey("png", RAMP.astype(np.uint16)), UPPER),
    "dark png": (grey("png", RAMP.astype(np.uint16) // 300), np.zeros_like(UPPER)),
    "tiff": (grey("tiff", RAMP.astype(np.uint16)), UPPER),
    "big-endian tiff": (grey("tiff", RAMP.astype(">u2")), UPPER),
    "pgm": (b"P5 64 48 65535\n" + RAMP.astype(">u2").tobytes(), UPPER),
    "32 bits": (grey("tiff", RAMP.astype(np.int32)), UPPER),
    "32 bits, small": (grey("tiff", UPPER.astype(np.int32)), UPPER),
    "float to 1": (grey("tiff", (UPPER / 255).astype(np.float32)), UPPER),
    "float to 255": (grey("tiff", UPPER.astype(np.float32)), UPPER),
}


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", DEEP)
def test_grey_of_more_than_8_bits_is_scaled(tier, channels, kind):
    data, expected = DEEP[kind]
    pixels = Decoder(tier, channels).decode(data)
    expected = np.repeat(expected[..., None], channels, axis=2).astype(int)
    assert np.abs(pixels - expected).max() <= (1 if "float" in kind else 0)
    region = Decoder(tier, channels).decode(data, Region(3, 40, 9, 8))
    assert np.array_equal(region, pixels[40:48, 3:12])


def test_odd_images_warn_of_nothing():
    """A warning is an error here, as in the whole suite."""
    palette = picture().convert("P")
    data = encoded(palette, "png", transparency=bytes(range(256)))
    assert np.array_equal(Decoder("auto", 3).decode(data), np.asarray(palette.convert("RGB")))
    large = bytearray(encoded(Image.new("L", (8, 8)), "png"))
    large[16:24] = (11_000).to_bytes(4, "big") * 2  # Pillow warns from 89 million pixels
    large[29:33] = zlib.crc32(large[12:29]).to_bytes(4, "big")
    assert open_image(bytes(large)).size == (11_000, 11_000)


@pytest.mark.parametrize("tier", TIERS)
def test_a_crop_of_a_jpeg_with_more_rows_than_libjpeg_takes_is_refused(tier):
    data = encoded(picture(17, 40))
    at = data.index(b"\xff\xc0") + 5
    data = data[:at] + (65_501).to_bytes(2, "big") + data[at + 2 :]
    for region in (None, Region(3, 5, 4, 6)):
        with pytest.raises(UndecodableImage):
            Decoder(tier).decode(data, region)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("marker", [0x00, 0x01, 0xD0, 0xD8, 0xD9, 0x7F])
def test_a_marker_without_a_length_before_the_frame_is_left_to_pillow(tier, marker):
    """Found by tests/data/fuzz: some read over it, some refuse it, some only above a crop."""
    data = encoded(picture(17, 40))
    data = data[:3] + bytes([marker]) + data[4:]
    for region in (None, Region(13, 5, 14, 6)):
        found = []
        for decoder in (Decoder(tier), Decoder("pil")):
            try:
                found.append(decoder.decode(data, region))
            except UndecodableImage:
                found.append(None)
        assert np.array_equal(*found)
