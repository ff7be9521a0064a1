"""``shards write`` with ``--orient`` and ``--background``: other programs' pixels, in shards."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps
from support.kinds import chunk, exif, inserted, png, segment, xmp
from support.pictures import encoded, picture
from support.shard_files import jpeg, run, tar_contents

from rwp_dist.base.errors import ConfigError, DataError
from rwp_dist.data.image import Decoder, orientation
from rwp_dist.shards.listing import list_source
from rwp_dist.shards.preprocess import Preprocess
from rwp_dist.shards.records import recipe_id
from rwp_dist.shards.verify import verify_shards
from rwp_dist.shards.write import _fingerprint, _recipe

PLAIN = encoded(picture(), quality=95)
SECOND = picture(40, 56, seed=1)


def opened(data):
    return Image.open(io.BytesIO(data))


def pixels(data):
    return np.asarray(opened(data).convert("RGB")).astype(int)


def tagged(kind, tag):
    """The second picture with an orientation tag."""
    if kind == "xmp":
        return inserted(
            encoded(SECOND), segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp(tag))
        )
    if kind == "png xmp":
        return _with_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(tag))
    if kind == "png of imagemagick":
        text = exif(tag).hex()
        profile = f"\nexif\n{len(text) // 2:8}\n{text}\n"
        return _with_chunk(b"tEXt", b"Raw profile type exif\0" + profile.encode())
    options = {"lossless": True} if kind == "webp" else {}
    return encoded(SECOND, kind, exif=exif(tag), **options)


def _with_chunk(kind, content):
    data = encoded(SECOND, "png")
    return data[:33] + chunk(kind, content) + data[33:]


@pytest.mark.parametrize(
    "kind", ["jpeg", "png", "webp", "mpo", "xmp", "png xmp", "png of imagemagick"]
)
@pytest.mark.parametrize("tag", range(1, 9))
def test_a_turned_image_is_what_other_programs_show(kind, tag):
    data = tagged(kind, tag)
    assert orientation(data) == tag
    turned, ending = Preprocess(orient=True, quality=100)(data, "jpg", "x")
    expected = np.asarray(ImageOps.exif_transpose(opened(data)).convert("RGB")).astype(int)
    assert orientation(turned) == 1
    assert np.array_equal(pixels(turned), np.asarray(ImageOps.exif_transpose(opened(turned))))
    if tag == 1:
        assert (turned, ending) == (data, "jpg")
    elif kind in ("jpeg", "mpo", "xmp"):
        assert opened(turned).format == "JPEG" and ending == "jpg"
        assert np.abs(pixels(turned) - expected).mean() < 9
    else:
        assert opened(turned).format == "PNG" and ending == "png"
        assert np.array_equal(pixels(turned), expected)
    small, ending = Preprocess(20, orient=True)(data, "png", "x")
    assert ending == "jpg" and opened(small).size == ((28, 20) if tag < 5 else (20, 28))
    near = opened(data).convert("RGB").resize((28, 20), Image.Resampling.LANCZOS)
    exif_of_near = Image.Exif()
    exif_of_near[0x112] = tag
    near = ImageOps.exif_transpose(opened(encoded(near, "png", exif=exif_of_near)))
    assert np.abs(pixels(small) - np.asarray(near)).mean() < 15


BROKEN = {
    "no exif": encoded(SECOND),
    "0": encoded(SECOND, exif=exif(0)),
    "9": encoded(SECOND, exif=exif(9)),
    "as text": encoded(SECOND, exif=exif(6, kind=2)),
    "as undefined": encoded(SECOND, exif=exif(6, kind=7)),
    "of no type": encoded(SECOND, exif=exif(6, kind=99)),
    "cut": encoded(SECOND, exif=exif(6)[:-14]),
    "beyond the end": encoded(SECOND, exif=b"Exif\0\0II*\0\xff\xff\xff\xff"),
    "nonsense": encoded(SECOND, exif=b"Exif\0\0" + bytes(range(200))),
    "xmp without it": inserted(
        encoded(SECOND), segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b"tiff:Orientation=")
    ),
    "nonsense in png": _with_chunk(b"eXIf", b"nonsense"),
    "no hex in png": _with_chunk(b"tEXt", b"Raw profile type exif\0\nexif\n 9\nno hex\n"),
    "nonsense in webp": encoded(SECOND, "webp", exif=b"nonsense"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_tag_turns_nothing(kind):
    assert orientation(BROKEN[kind]) == 1
    assert Preprocess(orient=True)(BROKEN[kind], "jpg", "x") == (BROKEN[kind], "jpg")


def test_tiffs_are_turned_by_pillow_and_not_twice():
    tiff = Image.Exif()
    tiff[0x112] = 6
    data = encoded(SECOND, "tiff", exif=tiff)
    assert orientation(data) == 1
    decoder = Decoder("auto")
    expected = np.asarray(SECOND.transpose(Image.Transpose.ROTATE_270))
    assert np.array_equal(decoder.decode(data), expected)


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_a_changed_image_has_no_metadata(kind):
    options = {"comment": b"mine"} if kind == "jpeg" else {}
    data = encoded(SECOND, kind, exif=exif(6), icc_profile=bytes(90), **options)
    metadata = {"exif", "icc_profile", *options}
    assert metadata <= opened(data).info.keys()
    for change in (Preprocess(orient=True), Preprocess(20), Preprocess(20, orient=True)):
        assert not metadata & opened(change(data, kind, "x")[0]).info.keys()


def test_a_bad_image_that_has_to_be_turned_is_refused_by_its_name():
    with pytest.raises(DataError, match=r"a\.jpg: this is no readable image"):
        Preprocess(orient=True)(tagged("jpeg", 6)[:-300], "jpg", "a.jpg")


@pytest.fixture
def source(tmp_path):
    """Three images that lie on a side among seven."""
    folder = tmp_path / "images" / "x"
    folder.mkdir(parents=True)
    for number, kind in enumerate(("jpeg", "png", "webp")):
        (folder / f"{number}.{kind}").write_bytes(tagged(kind, 6))
    for number in range(3, 7):
        (folder / f"{number}.jpg").write_bytes(jpeg(number, (56, 40)))
    return tmp_path / "images"


SENTENCE = "3 images with an EXIF orientation that is not applied"


def test_what_is_not_turned_is_said_with_the_cure_and_fails_nothing(tmp_path, source):
    out = tmp_path / "t"
    for _ in range(2):  # also when all shards are kept
        said = run("write", source, "--out", out, "--samples-per-shard", 2)
        assert SENTENCE in said and "write the shards with --orient" in said
    assert SENTENCE not in run("verify", out)
    assert SENTENCE in run("verify", out, "--level", "decode")
    assert "3 of 7 random images" in run("stats", out) and "--orient" in run("stats", out)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_folder_is_written_turned(tmp_path, source, workers):
    out, flags = tmp_path / "t", ("--orient", "--samples-per-shard", 4, "--workers", workers)
    assert SENTENCE not in run("write", source, "--out", out, *flags)
    assert SENTENCE not in run("verify", out, "--level", "decode")
    assert "EXIF" not in run("stats", out)
    found = [image for tar in sorted(out.glob("*.tar")) for _, image, _ in tar_contents(tar)]
    assert sorted(opened(image).size for image in found) == [(40, 56)] * 3 + [(56, 40)] * 4
    assert {jpeg(number, (56, 40)) for number in range(3, 7)} < set(found)
    with pytest.raises(DataError, match="other settings"):
        run("write", source, "--out", out, "--samples-per-shard", 4)


def test_folders_of_earlier_versions_keep_their_recipe(source):
    listing = list_source(str(source))
    known = {"version": 1, "seed": 0, "num_shards": 1, "classes": ("x",)}
    known["source"] = _fingerprint(listing)
    assert _recipe(listing, 0, 1, None) == recipe_id(**known, shrink=None)
    shrink = {"short_side": 60, "quality": 80}
    assert _recipe(listing, 0, 1, Preprocess(60, quality=80)) == recipe_id(**known, shrink=shrink)
    changes = [
        Preprocess(orient=True),
        Preprocess(orient=True, quality=80),
        Preprocess(background=(0, 0, 0)),
        Preprocess(background=(0, 0, 1)),
        Preprocess(60, background=(0, 0, 1)),
    ]
    assert len({_recipe(listing, 0, 1, each) for each in (None, *changes)}) == 6


# --- alpha ---

RED = (255, 0, 0)
PALETTE = chunk(b"PLTE", bytes((10, 20, 30, 200, 100, 0)))


def tiff(mode, *values):
    return encoded(Image.frombytes(mode, (len(values), 1), bytes(sum(values, ()))), "tiff")


def _two_colours():
    image = Image.frombytes("P", (2, 1), b"\0\1")
    image.putpalette(bytes((10, 20, 30, 200, 100, 0)))
    return image


ALPHA = {
    # File, and of each pixel the colour that is dropped to and alpha.
    "grey and alpha": (png(2, 1, 8, 4, [b"\x50\x80\x60\xff"]), [(80,) * 3, (96,) * 3], [128, 255]),
    "rgb and alpha": (
        png(3, 1, 8, 6, [b"\1\2\3\0\4\5\6\x80\7\x08\x09\xff"]),
        [(1, 2, 3), (4, 5, 6), (7, 8, 9)],
        [0, 128, 255],
    ),
    "grey and alpha of 16 bits": (
        png(2, 1, 16, 4, [b"\x50\0\x80\0\x60\0\xff\xff"]),
        [(80,) * 3, (96,) * 3],
        [128, 255],
    ),
    "rgb and alpha of 16 bits": (
        png(1, 1, 16, 6, [b"\x10\0\x20\0\x30\0\x40\0"]),
        [(16, 32, 48)],
        [64],
    ),
    "palette": (
        png(2, 1, 8, 3, [b"\0\1"], PALETTE, chunk(b"tRNS", b"\x40")),
        [(10, 20, 30), (200, 100, 0)],
        [64, 255],
    ),
    "palette of 1 bit": (
        png(2, 1, 1, 3, [b"\x40"], PALETTE, chunk(b"tRNS", b"\xff\0")),
        [(10, 20, 30), (200, 100, 0)],
        [255, 0],
    ),
    "1 bit": (
        png(2, 1, 1, 0, [b"\x40"], chunk(b"tRNS", b"\0\1")),
        [(0,) * 3, (255,) * 3],
        [255, 0],
    ),
    "2 bits": (
        png(3, 1, 2, 0, [b"\x1b"], chunk(b"tRNS", b"\0\1")),
        [(0,) * 3, (85,) * 3, (170,) * 3],
        [255, 0, 255],
    ),
    "4 bits": (
        png(2, 1, 4, 0, [b"\x5f"], chunk(b"tRNS", b"\0\x0f")),
        [(85,) * 3, (255,) * 3],
        [255, 0],
    ),
    "grey": (png(2, 1, 8, 0, [b"\5\6"], chunk(b"tRNS", b"\0\5")), [(5,) * 3, (6,) * 3], [0, 255]),
    "grey of 16 bits": (
        png(3, 1, 16, 0, [b"\1\5\1\6\xff\xff"], chunk(b"tRNS", b"\1\5")),
        [(1,) * 3, (1,) * 3, (255,) * 3],
        [0, 255, 255],
    ),
    "rgb": (
        png(2, 1, 8, 2, [b"\1\2\3\1\2\4"], chunk(b"tRNS", b"\0\1\0\2\0\3")),
        [(1, 2, 3), (1, 2, 4)],
        [0, 255],
    ),
    "rgb of 16 bits": (
        png(2, 1, 16, 2, [b"\1\0\2\0\3\0\1\0\2\0\4\0"], chunk(b"tRNS", b"\1\0\2\0\3\0")),
        [(1, 2, 3), (1, 2, 4)],
        [0, 255],
    ),
    "webp": (
        encoded(
            Image.fromarray(np.uint8([[[1, 2, 3, 90], [4, 5, 6, 255]]])),
            "webp",
            lossless=True,
            exact=True,
        ),
        [(1, 2, 3), (4, 5, 6)],
        [90, 255],
    ),
    "tiff": (tiff("LA", (80, 128), (96, 255)), [(80,) * 3, (96,) * 3], [128, 255]),
    "gif": (
        encoded(_two_colours(), "gif", transparency=1),
        [(10, 20, 30), (200, 100, 0)],
        [255, 0],
    ),
}


@pytest.mark.parametrize("kind", ALPHA)
def test_alpha_is_dropped_by_default_and_blended_if_asked_for(kind):
    data, colours, alphas = ALPHA[kind]
    assert np.array_equal(Decoder("auto").decode(data), [colours])
    assert Preprocess(orient=True)(data, "png", "x") == (data, "png")
    share = np.array(alphas)[:, None] / 255
    expected = [share * colours + (1 - share) * RED]
    blended, ending = Preprocess(background=RED)(data, "webp", "x")
    assert (opened(blended).format, opened(blended).mode, ending) == ("PNG", "RGB", "png")
    assert np.abs(pixels(blended) - expected).max() <= 1
    assert np.array_equal(Decoder("auto").decode(blended), pixels(blended))


def premultiplied_grey():
    """A TIFF of grey times alpha, as some editors write."""
    data = tiff("LA", (40, 128), (96, 255))
    entry = b"\x52\x01\x03\x00\x01\x00\x00\x00"  # ExtraSamples, of type short
    at = data.index(entry) + len(entry)
    return data[:at] + b"\x01" + data[at + 1 :]


def test_premultiplied_grey_is_divided_by_its_alpha():
    data = premultiplied_grey()
    assert opened(data).mode == "La"
    assert np.abs(Decoder("auto").decode(data)[0, :, 0].astype(int) - [80, 96]).max() <= 1
    blended, _ = Preprocess(background=RED)(data, "png", "x")
    assert np.abs(pixels(blended) - [[[167, 40, 40], [96, 96, 96]]]).max() <= 1


def test_images_without_alpha_stay_as_they_are():
    for data in (PLAIN, encoded(picture(), "png"), encoded(picture(channels=1), "png"), b"bad"):
        if data != b"bad":
            assert Preprocess(background=RED)(data, "jpg", "x") == (data, "jpg")
    small, _ = Preprocess(20, background=RED)(encoded(picture(channels=1), "png"), "png", "x")
    assert opened(small).mode == "L"


def test_turned_shrunk_and_blended_at_once():
    image = Image.new("RGBA", (40, 20), (0, 0, 255, 0))
    image.paste((0, 0, 255, 255), (0, 0, 20, 20))
    data = encoded(image, "png", exif=exif(6))
    made, ending = Preprocess(10, True, (255, 255, 0), 95)(data, "png", "x")
    assert (opened(made).size, opened(made).format, ending) == ((10, 20), "JPEG", "jpg")
    assert np.abs(pixels(made)[2, 5] - [0, 0, 255]).max() < 9
    assert np.abs(pixels(made)[17, 5] - [255, 255, 0]).max() < 9


def test_a_background_is_a_colour_by_name_or_number(tmp_path):
    folder = tmp_path / "images" / "x"
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(ALPHA["rgb and alpha"][0])
    for number, colour in enumerate(("white", "#0000ff", "rgb(0,255,0)")):
        run("write", folder.parent, "--out", tmp_path / f"{number}", "--background", colour)
        ((_, image, _),) = tar_contents(tmp_path / f"{number}" / f"{number}-000000.tar")
        assert pixels(image)[0, 0].tolist() == [[255] * 3, [0, 0, 255], [0, 255, 0]][number]
        assert not [c.faults for c in verify_shards(tmp_path / f"{number}", "decode") if c.faults]
    for colour in ("whit", "#ffff", "#ffffff80", "", "1,2,3", "rgb(0,256,0)"):
        with pytest.raises(ConfigError, match=r"--background: .* is no colour.*such as white"):
            run("write", folder.parent, "--out", tmp_path / "u", "--background", colour)
