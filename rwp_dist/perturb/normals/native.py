"""The values of the Triton kernels on a CPU, by ``normals.c``.

For ResNet-50 it takes a quarter of the time of torch's generator with AVX-512 and half with AVX2.
Short rows gain less: a row of up to 128 elements uses one of the four values of each counter.

The values are the same to the last bit on every processor; ``philox.py`` defines them.
"""

import ctypes
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from rwp_dist.base.compiled import CLibrary
from rwp_dist.base.errors import ConfigError
from rwp_dist.perturb.normals.philox import noise_key

LIBRARY = CLibrary(
    key="backend",
    value="native",
    instead="leave it at auto",
    repair="set CC to another C compiler",
    files=(Path(__file__).with_name("normals.c"),),
    options=(
        *("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"),
        "-ffp-contract=off",  # a processor that fuses operations would round otherwise
    ),
    libraries=("-lm",),
    native=True,
)


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL:
    """The compiled C file.

    Raises:
        ConfigError: this machine cannot compile it.
    """
    compiled = LIBRARY.load()
    compiled.fill_normal.restype = None
    compiled.fill_normal.argtypes = [
        *(ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64),
        *(ctypes.c_uint32, ctypes.c_uint32, ctypes.c_uint32),
    ]
    return compiled


@lru_cache(maxsize=1)
def is_fast() -> bool:
    """Whether this machine can compile it and has vectors that make it faster than torch."""
    try:
        return bool(library().is_fast())
    except ConfigError:
        return False


class NativeNormals:
    """Standard normal values by key, on the CPU."""

    device = torch.device("cpu")

    def __init__(self, seed: int) -> None:
        """Compile the C file.

        Raises:
            ConfigError: this machine cannot compile it.
        """
        self.seed = seed
        self._fill = library().fill_normal

    def fill(self, out: Tensor, step: int, draw: int, index: int) -> Tensor:
        if not (out.is_contiguous() and out.dtype == torch.float32 and out.is_cpu):
            raise ValueError("noise is drawn into contiguous fp32 tensors on the CPU")
        rows = out.shape[0] if out.ndim > 1 else 1
        key = noise_key(self.seed, step, draw)
        # ctypes releases the interpreter's lock meanwhile.
        self._fill(out.data_ptr(), rows, out.numel() // max(rows, 1), key % 2**32, key >> 32, index)
        return out
