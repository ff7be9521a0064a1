"""Random numbers by key: no global state, the same in every process, a few µs per sample.

A BLAKE2b hash of the key starts a SplitMix64 stream (Steele, Lea and Flood, "Fast splittable
pseudorandom number generators", 2014). numpy's and torch's generators cost more to set up than a
sample's few draws take here.
"""

import math
import struct
from hashlib import blake2b

_MASK = 2**64 - 1


class Keyed:
    """Draws that depend on the key, the purpose and their order alone.

    Any integers are keys; ``purpose`` (at most 16 bytes) keeps equal keys of different users apart.
    """

    __slots__ = ("_state",)

    def __init__(self, *key: int, purpose: bytes = b"augment") -> None:
        words = struct.pack(f"<{len(key)}Q", *[part & _MASK for part in key])
        digest = blake2b(words, digest_size=8, person=purpose).digest()
        self._state = int.from_bytes(digest, "little")

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
