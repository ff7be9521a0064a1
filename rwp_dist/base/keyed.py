"""Random numbers by key: the same in every process, without global state.

Runs that are resumed, and runs on other numbers of ranks, draw the same values. So no function here
may ever change what it returns.

``Keyed`` is for the few draws of one sample: it takes a few µs, where a generator of numpy or torch
costs more to construct. ``numpy_generator`` is for arrays, ``key_seed`` seeds torch's generators.
"""

import math
import struct
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

_MASK = 2**64 - 1


class Keyed:
    """A stream of draws that depend only on the key, the purpose and the order of the calls.

    A BLAKE2b hash of the key starts a SplitMix64 stream (Steele, Lea and Flood, "Fast splittable
    pseudorandom number generators", 2014).

    Args:
        key: any integers.
        purpose: at most 16 bytes; equal keys with different purposes give different draws.
    """

    __slots__ = ("_state",)

    def __init__(self, *key: int, purpose: bytes = b"augment") -> None:
        self._state = int.from_bytes(_hash(key, purpose), "little")

    def bits(self) -> int:
        """64 random bits."""
        self._state = z = (self._state + 0x9E3779B97F4A7C15) & _MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return z ^ (z >> 31)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A float in ``[low, high)``."""
        return low + (high - low) * ((self.bits() >> 11) * 2.0**-53)

    def integers(self, n: int) -> int:
        """An integer in ``[0, n)``; its bias is below n / 2^64."""
        return (self.bits() * n) >> 64

    def normal(self) -> float:
        """A standard normal value (Box and Muller, 1958)."""
        radius = math.sqrt(-2.0 * math.log(1.0 - self.uniform()))
        return radius * math.cos(2.0 * math.pi * self.uniform())

    def permutation(self, n: int) -> list[int]:
        """The numbers from 0 to n - 1 in a random order (Fisher and Yates, 1938)."""
        numbers = list(range(n))
        for last in range(n - 1, 0, -1):
            other = self.integers(last + 1)
            numbers[last], numbers[other] = numbers[other], numbers[last]
        return numbers

    def beta(self, a: float, b: float) -> float:
        """A value of the beta distribution."""
        return float(self._numpy().beta(a, b))

    def dirichlet(self, alphas: Sequence[float]) -> list[float]:
        """Shares that add up to 1, of a Dirichlet distribution."""
        shares: list[float] = self._numpy().dirichlet(alphas).tolist()
        return shares

    def _numpy(self) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=self.bits()))


def numpy_generator(seed: int, *key: int) -> np.random.Generator:
    """A Philox generator for (seed, key)."""
    # As a spawn key, the key cannot be taken for the high bits of a long seed.
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=key)))


def key_seed(*key: int) -> int:
    """64 well-mixed bits of a key as a signed integer, for ``torch.Generator.manual_seed``.

    Torch's CPU generator keeps only 32 bits of a seed, so sums of key parts would collide.
    """
    return int.from_bytes(_hash(key, b""), "little", signed=True)


def _hash(key: tuple[int, ...], purpose: bytes) -> bytes:
    words = struct.pack(f"<{len(key)}Q", *[part & _MASK for part in key])
    return blake2b(words, digest_size=8, person=purpose).digest()
