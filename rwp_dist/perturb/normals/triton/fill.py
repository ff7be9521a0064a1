"""Standard normal values by key on a GPU: those that the noise kernel draws in registers."""

import torch
from torch import Tensor

from rwp_dist.perturb.normals.philox import noise_key
from rwp_dist.perturb.normals.triton import kernels
from rwp_dist.perturb.normals.triton.fused import LAUNCH, signed_word


class TritonNormals:
    """Fills tensors on a GPU with the values of ``philox.py``, but for rounding."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.seed, self.device = seed, device

    def fill(self, out: Tensor, step: int, draw: int, index: int) -> Tensor:
        """Fill ``out``, contiguous and on the GPU; see ``Normals.fill``."""
        if not (out.is_contiguous() and out.dtype == torch.float32):
            raise ValueError("noise is drawn into contiguous fp32 tensors")
        rows = out.shape[0] if out.ndim > 1 else 1
        length = out.numel() // max(rows, 1)
        if out.numel():
            key = noise_key(self.seed, step, draw)
            pieces = -(-length // kernels.PIECE.value)
            kernels.fill_normals[(rows, pieces)](
                out, length, index, signed_word(key % 2**32), signed_word(key >> 32), **LAUNCH
            )
        return out
