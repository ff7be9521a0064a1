"""A library is used if it decodes one image as Pillow does; what is broken is said."""

import importlib

import numpy as np
import pytest
from support.tiers import TIERS

from rwp_dist.base.errors import ConfigError
from rwp_dist.data.image import Decoder, optional_module, pixels, resize, tiers
from rwp_dist.data.image.jpeg import libjpeg

COMPILED = [tier for tier in TIERS if tier != "pil"]


@pytest.fixture(autouse=True)
def fresh():
    """As in a process that has not decoded yet."""

    def forget():
        for known in (tiers.why_unusable, tiers._fastest, optional_module, pixels._has_opencv):
            known.cache_clear()
        libjpeg.library.cache_clear()

    forget()
    yield
    forget()


@pytest.fixture
def breaks(monkeypatch):
    """Have some tiers return what a function makes of their pixels."""

    def broken(names, change):
        decode = tiers.decode_region
        monkeypatch.setattr(
            tiers,
            "decode_region",
            lambda tier, *args: (change if tier in names else np.asarray)(decode(tier, *args)),
        )

    return broken


def test_auto_takes_the_fastest_and_says_nothing(capfd):
    assert Decoder("auto").tier == TIERS[0]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("tier", COMPILED)
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda found: None, "refuses a good JPEG"),
        (lambda found: found ^ 1, "decodes a JPEG to wrong pixels"),
        (lambda found: found[::2], "decodes a JPEG to wrong pixels"),
    ],
)
def test_a_tier_without_pillows_pixels_is_refused(breaks, tier, change, says):
    breaks([tier], change)
    with pytest.raises(ConfigError, match=f"data.decoder: {tier} {says}.*data.decoder=auto"):
        Decoder(tier)


def test_auto_says_once_what_is_broken_and_takes_the_next(breaks, capfd):
    breaks(TIERS[:-2], lambda found: found ^ 1)
    for _ in range(2):
        assert Decoder("auto").tier == TIERS[-2]
    lines = capfd.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == TIERS[:-2]
    assert all(line.endswith(f"; {TIERS[-2]} decodes instead.") for line in lines)


@pytest.mark.skipif("libjpeg" not in TIERS, reason="libjpeg-turbo is optional")
def test_headers_of_another_version_than_the_library_are_noticed(tmp_path, monkeypatch, capfd):
    header = "#include_next <jpeglib.h>\n#undef JPEG_LIB_VERSION\n#define JPEG_LIB_VERSION 99\n"
    (tmp_path / "jpeglib.h").write_text(header)
    monkeypatch.setenv("CPATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"libjpeg refuses a good JPEG.*another version .*CPATH"):
        Decoder("libjpeg")
    assert Decoder("auto").tier == TIERS[1]
    assert "libjpeg refuses a good JPEG" in capfd.readouterr().err


@pytest.fixture
def imports(monkeypatch):
    """Have the import of packages fail with an error; others are imported."""

    def fail(error, *names):
        usual = importlib.import_module

        def import_module(name, *args):
            if name in names:
                raise error
            return usual(name, *args)

        monkeypatch.setattr(importlib, "import_module", import_module)

    return fail


def test_a_package_that_is_not_installed_is_named_and_auto_goes_on_quietly(imports, capfd):
    imports(ModuleNotFoundError("No module"), "simplejpeg", "cv2")
    with pytest.raises(
        ConfigError, match=r"simplejpeg is not inst.*pip install 'rwp-dist\[fast\]'"
    ):
        Decoder("simplejpeg")
    with pytest.raises(ConfigError, match="cv2 is not installed"):
        resize(np.zeros((4, 4, 3), np.uint8), 2, 2, antialias=False)
    assert Decoder("auto").tier != "simplejpeg"
    assert capfd.readouterr().err == ""


def test_a_package_that_cannot_be_imported_is_said(imports, monkeypatch, capfd):
    imports(ValueError("numpy.dtype size changed"), "simplejpeg", "cv2")
    with pytest.raises(ConfigError, match=r"simplejpeg is inst.*imported \(numpy.dtype size.*auto"):
        Decoder("simplejpeg")
    without = ConfigError("there is no compiler", cure="choose data.decoder=auto")
    monkeypatch.setattr(libjpeg, "library", _raise(without))
    assert Decoder("auto").tier == "torchvision"
    assert "(numpy.dtype size changed); torchvision decodes" in capfd.readouterr().err
    image = np.arange(30, dtype=np.uint8).reshape(2, 5, 3)
    assert np.array_equal(pixels.mirror(image), image[:, ::-1])


def _raise(error):
    def function():
        raise error

    function.cache_clear = lambda: None
    return function


def test_a_torchvision_without_its_decoder_is_said(monkeypatch):
    monkeypatch.delattr("torchvision.io.decode_jpeg")
    with pytest.raises(ConfigError, match=r"no decode_jpeg .*data.decoder=auto"):
        Decoder("torchvision")
