"""Compiling ``region.c`` where it can be, and saying why not where it cannot."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from rwp_dist.base.errors import ConfigError
from rwp_dist.data.image import tiers
from rwp_dist.data.image.decode import Decoder
from rwp_dist.data.image.jpeg import libjpeg
from rwp_dist.data.image.tiers import why_unusable

pytestmark = pytest.mark.skipif(
    why_unusable("libjpeg") is not None, reason="libjpeg-turbo is optional"
)


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """As on a machine that has compiled nothing yet."""

    def forget():
        libjpeg.library.cache_clear()
        tiers.why_unusable.cache_clear()
        tiers._fastest.cache_clear()

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    forget()
    yield
    forget()


def jpeg():
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (90, 120, 30)).save(buffer, "jpeg")
    return buffer.getvalue()


def compiled(tmp_path):
    return sorted((tmp_path / "cache/rwp-dist/compiled").iterdir())


def test_it_is_compiled_once_and_leaves_one_file(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: libjpeg.library.__wrapped__(), range(4)))
    (path,) = compiled(tmp_path)
    before = path.stat().st_mtime_ns
    assert libjpeg.decode_region(jpeg(), 3, 2, 3, 4, 5).shape == (5, 4, 3)
    assert [p.stat().st_mtime_ns for p in compiled(tmp_path)] == [before]


def test_a_library_that_does_not_load_here_is_compiled_again(tmp_path):
    libjpeg.library()
    (path,) = compiled(tmp_path)
    path.unlink()  # this process has it mapped
    path.write_bytes(b"for another machine")
    libjpeg.library.cache_clear()
    assert libjpeg.decode_region(jpeg(), 1, 0, 0, 8, 8).shape == (8, 8, 1)


@pytest.mark.parametrize(
    ("compiler", "says"),
    [
        ("no-such-compiler", "needs a C compiler, and there is no 'no-such-compiler'"),
        (
            "cc -nostdinc",
            r"cannot be compiled \(.*error.*apt install libjpeg-dev",
        ),
    ],
)
def test_without_what_it_needs_it_says_so_and_auto_takes_another(monkeypatch, compiler, says):
    monkeypatch.setenv("CC", compiler)
    with pytest.raises(ConfigError, match=f"{says}.*data.decoder=auto") as refused:
        Decoder("libjpeg")
    assert "\n" not in str(refused.value)
    decoder = Decoder("auto")
    assert decoder.tier != "libjpeg"
    assert np.array_equal(decoder.decode(jpeg()), Decoder("pil").decode(jpeg()))


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert Decoder("libjpeg").tier == "libjpeg"
