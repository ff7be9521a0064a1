"""The values of the Triton kernels and of ``normals.c``, in NumPy: slow, plain, the definition.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) turns a
counter of four words and a key of two into four random words, and Box and Muller's transform two
of these into two normal values. What a value is depends on where it belongs, never on how a device
shares out the work:

======== ======================================================================================
key      64 bits hashed from (seed, step, draw), low word first
counter  ``(128 (j // 512) + j % 128, row, parameter, 0)`` for element ``j`` of a row
value    number ``j // 128 % 4`` of the counter's four
======== ======================================================================================

So 128 neighbouring elements, which neighbouring threads work on, take one value of each of 128
counters, and the next 128 elements take the next value of the same counters. ``parameter`` is its
position in the network, ``row`` a filter of it; a tensor of one dimension is one row.

Random words are theirs bit for bit; normal values agree to a few units in the last place, because
logarithms are computed in other ways.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rwp_dist.base.keyed import key_seed

LANES = 128
"""Neighbouring elements that take the same value of neighbouring counters."""

_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)

Words = npt.NDArray[np.uint32]


def philox(counter: npt.ArrayLike, key: tuple[int, int]) -> Words:
    """Ten rounds of Philox4x32: counters ``[..., 4]`` to random words ``[..., 4]``."""
    c0, c1, c2, c3 = np.moveaxis(np.asarray(counter, dtype=np.uint64), -1, 0)
    k0, k1 = key
    for _ in range(10):
        first, second = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1 = (second >> _HALF) ^ c1 ^ np.uint64(k0), second & _LOW
        c2, c3 = (first >> _HALF) ^ c3 ^ np.uint64(k1), first & _LOW
        k0, k1 = ((k + step) % 2**32 for k, step in zip((k0, k1), _KEY_STEPS, strict=True))
    return np.stack([c0, c1, c2, c3], -1).astype(np.uint32)


def to_normal(words: Words) -> npt.NDArray[np.float32]:
    """Words ``[..., 4]`` to normal values ``[..., 4]``; each pair of words makes a pair of values.

    Box and Muller: ``sqrt(-2 ln u) (cos a, sin a)`` with ``u = (first + 1/2) / 2^32``, rounded to
    fp32 as the kernels do, and ``a`` as many quarter turns as the two highest bits of the second
    word say, plus an eighth of a turn at most, one way or the other, by the others. No value
    exceeds 6.8, which one in 10^11 would.
    """
    u = words[..., ::2].astype(np.float32) * np.float32(2.0**-32) + np.float32(2.0**-33)
    second = words[..., 1::2]
    turns = (second >> np.uint32(30)) + (second << np.uint32(2)).view(np.int32) / 2.0**32
    radius, angle = np.sqrt(-2.0 * np.log(u.astype(np.float64))), 0.5 * np.pi * turns
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1)
    return pairs.reshape(words.shape).astype(np.float32)


def noise_key(seed: int, step: int, draw: int) -> int:
    """The key of one draw for all parameters, 64 bits."""
    return key_seed(seed, step, draw, -1) % 2**64


def row_normals(key: int, parameter: int, rows: int, length: int) -> npt.NDArray[np.float32]:
    """Standard normal values of a parameter, ``[rows, length]``."""
    column = np.arange(length)
    counter = np.zeros((rows, length, 4), np.uint64)
    counter[..., 0] = column // (4 * LANES) * LANES + column % LANES
    counter[..., 1] = np.arange(rows)[:, None]
    counter[..., 2] = parameter
    words = philox(counter, (key % 2**32, key >> 32))
    which = np.broadcast_to(column // LANES % 4, (rows, length))[..., None]
    return np.take_along_axis(to_normal(words), which, -1)[..., 0]


class PhiloxNormals:
    """The same values as ``Normals``: repeats on any machine what a run on a GPU drew."""

    device = torch.device("cpu")

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def fill(self, out: Tensor, step: int, draw: int, index: int) -> Tensor:
        rows = out.shape[0] if out.ndim > 1 else 1
        key = noise_key(self.seed, step, draw)
        values = row_normals(key, index, rows, out.numel() // max(rows, 1))
        return out.copy_(torch.from_numpy(values).view(out.shape))
