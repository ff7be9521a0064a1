import platform
import zlib

import numpy as np

from rwp_dist.base import checksum


def test_values_are_those_of_zlib():
    rng = np.random.default_rng(0)
    for length in (*range(40), *rng.integers(40, 200_000, 60)):
        data = rng.bytes(int(length))
        assert (
            checksum.crc32(data) == checksum.crc32(memoryview(bytearray(data))) == zlib.crc32(data)
        )


def test_it_is_isals_where_that_has_wheels():
    if platform.machine() in ("x86_64", "AMD64", "aarch64", "arm64"):
        assert checksum.crc32.__module__ == "isal.isal_zlib"
