"""The C files of ``image/jpeg`` under ASan and UBSan, on mutated JPEGs.

``RWP_FUZZ_S=3600 pytest -m slow tests/data/image/test_fuzz.py`` searches for an hour.
"""

import os
import random
import subprocess
from pathlib import Path

import pytest
from support.pictures import encoded, picture

from rwp_dist.data.image.jpeg import libjpeg
from rwp_dist.data.image.tiers import why_unusable

SANITIZE = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
FUZZ = Path(__file__).parent / "fuzz" / "fuzz.c"
KINDS = (
    {"subsampling": "4:4:4"},
    {"subsampling": "4:2:2"},
    {"subsampling": "4:2:0"},
    {"subsampling": "4:1:1"},
    {"subsampling": "4:2:0", "optimize": True},
    {"subsampling": "4:2:0", "restart_marker_blocks": 3},
    {"progressive": True},
)

pytestmark = pytest.mark.skipif(
    why_unusable("libjpeg") is not None, reason="libjpeg-turbo is optional"
)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz") / "fuzz"
    sources = [FUZZ, *libjpeg.LIBRARY.files]
    options = [*SANITIZE, "-I", libjpeg.HERE]
    command = ["cc", *options, *sources, "-o", path, *libjpeg.LIBRARY.libraries]
    made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode and "cannot find" in made.stderr:
        pytest.skip("this compiler has no sanitizers")
    assert made.returncode == 0, made.stderr
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Small JPEGs of all kinds."""
    folder = tmp_path_factory.mktemp("files")
    for seed in range(3):
        for number, options in enumerate(KINDS):
            for quality in (30, 90, 100):
                image = picture(*((17, 40), (61, 83), (8, 8))[seed], seed=seed)
                data = encoded(image, quality=quality, **options)
                (folder / f"{seed}-{number}-{quality}.jpg").write_bytes(data)
        (folder / f"{seed}-grey.jpg").write_bytes(encoded(picture(30, 21, channels=1, seed=seed)))
    return sorted(folder.iterdir())


def fuzz(program, files, seconds, seed):
    command = [program, str(seconds), str(seed), *files]
    done = subprocess.run(command, capture_output=True, text=True, cwd=program.parent)
    assert done.returncode == 0, f"{' '.join(map(str, command[:3]))}: {done.stderr}"
    tried, changed, accepted = map(int, done.stdout.split())
    # Enough of each: files as they are, mutants that are read, and mutants that are refused.
    assert tried > 100 * seconds and min(tried - changed, accepted, changed - accepted) > tried / 20


def test_mutants_of_a_few_seconds(program, files):
    fuzz(program, files, 2, seed=0)


@pytest.mark.slow
def test_mutants_of_a_minute(program, files):
    fuzz(program, files, float(os.environ.get("RWP_FUZZ_S", "60")), random.randrange(2**32))
