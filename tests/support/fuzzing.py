"""Properties that must hold for any bytes: searched by hypothesis for a second, or for long.

``RWP_FUZZ_S=3600 pytest -m long tests/data/fuzz`` searches for an hour each. The seeds are fixed,
so a failure comes again.
"""

import itertools
import os
import resource
import signal
import struct
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

SECONDS = (1.0, pytest.param(float(os.environ.get("RWP_FUZZ_S", "30")), id="long"))
"""How long a test searches; ``make test-all`` runs the second."""
LONGEST_S = 10
"""One call may take so long on a busy machine; each takes milliseconds."""
MOST_MEMORY = 1 << 30
"""Bytes that a call may take, far more than the inputs have."""
ANYWHERE = st.integers(0, 2**64)
"""Modulo a length it is any place, where hypothesis prefers small numbers."""
NUMBERS = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 10**12, 10**18)


def search(holds, inputs, seconds):
    """Call ``holds`` with inputs of a strategy for some seconds."""

    def limited(value):
        with _bounded():
            holds(value)

    options = settings(
        max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    end = time.monotonic() + seconds
    for number in itertools.count():
        seed(number)(options(given(inputs)(limited)))()
        if time.monotonic() > end:
            break


@contextmanager
def _bounded():
    """Time and memory of a call end, so that one without bounds fails."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + MOST_MEMORY, limits[1]))
    before = signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(LONGEST_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)


def _too_long(*_):
    raise AssertionError(f"it takes more than {LONGEST_S} seconds")


@st.composite
def mutants(draw, originals, words=()):
    """Good contents that were changed in some places: flipped, cut, spliced, repeated.

    ``words`` are bytes that mean something in this format.
    """
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(ANYWHERE) % (len(data) + 1)
        size = draw(st.sampled_from((1, 2, 8, 40, 512, 1024)))
        how = draw(st.sampled_from(("flip", "set", "cut", "drop", "repeat", "splice", "number")))
        if how == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "set":
            new = draw(
                st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from(words or [b"0"]))
            )
            data[at : at + len(new)] = new
        elif how == "cut":
            del data[at:]
        elif how == "drop":
            del data[at : at + size]
        elif how == "repeat":
            data[at:at] = data[at : at + size] * draw(st.integers(1, 3))
        elif how == "splice":
            other = draw(st.sampled_from(originals))
            start = draw(ANYWHERE) % (len(other) + 1)
            data[at : at + size] = other[start : start + size]
        elif how == "number":
            data[at : at + 8] = struct.pack("<Q", draw(st.sampled_from(NUMBERS)))
    return bytes(data)
