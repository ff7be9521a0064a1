"""Where the rows of some tensors lie in memory, as a table on the device for the kernels."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from rwp_dist.perturb.normals.triton import kernels
from rwp_dist.perturb.rows import Rows

TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
"""Types of weights and gradients that the kernels take."""


class RowTable:
    """Rows of some parameters; stays on the device as long as the tensors stay where they are."""

    def __init__(self, rows: Sequence[Rows], device: torch.device) -> None:
        self.order = sorted(rows, key=lambda r: -r.length)
        """Long rows first: one that starts last would keep the device waiting."""
        piece = kernels.PIECE.value
        table = []
        for number, r in enumerate(self.order):
            num_rows, num_pieces = r.shape[0] if r.is_matrix else 1, max(-(-r.length // piece), 1)
            row, part = torch.arange(num_rows), torch.arange(num_pieces)
            numbers = torch.full((num_rows * num_pieces,), number)
            table.append(
                torch.stack([numbers, row.repeat_interleave(num_pieces), part.repeat(num_rows)], 1)
            )
        self.programs = torch.cat(table).to(torch.int32).to(device)
        """``[programs, 3]``: number of a tensor, row in it, piece of the row."""
        split = sum(len(t) for t, r in zip(table, self.order, strict=True) if r.length > piece)
        self._sums = torch.empty(split, device=device) if split else None
        self._fixed = [(r.length, r.place.start, int(not r.is_matrix), r.index) for r in self.order]
        self._addresses: list[int] = []
        self._places = torch.empty(0)

    def places(self, tensors: Iterable[Tensor], targets: Iterable[Tensor] = ()) -> Tensor:
        """``[tensors, 6]`` as the kernels read it; copied to the device if a tensor has moved.

        Args:
            tensors: the parameters or their gradients, in ``order``, with dense rows.
            targets: tensors to write to, laid out like ``tensors``.
        """
        addresses = [t.data_ptr() for t in tensors]
        written = [t.data_ptr() for t in targets] or [0] * len(addresses)
        if addresses + written != self._addresses:
            table = [
                (a, *fixed, w) for a, fixed, w in zip(addresses, self._fixed, written, strict=True)
            ]
            pinned = self.programs.is_cuda  # so that the host need not wait for the copy
            places = torch.tensor(table, dtype=torch.int64, pin_memory=pinned)
            self._places = places.to(self.programs.device, non_blocking=True)
            self._addresses = addresses + written
        return self._places

    def sum_pieces(self, places: Tensor, dtype: tl.dtype) -> Tensor | None:
        """Sums of squares of all pieces of long rows; None if no row is long."""
        if self._sums is not None:
            kernels.sum_pieces[(len(self._sums),)](self.programs, places, self._sums, dtype=dtype)
        return self._sums


def rows_are_dense(tensor: Tensor) -> bool:
    """Whether each row of ``tensor`` is one piece of memory, one row after the other."""
    formats: dict[int, Any] = {4: torch.channels_last, 5: torch.channels_last_3d}
    layout = formats.get(tensor.ndim)
    return tensor.is_contiguous() or (
        layout is not None and tensor.is_contiguous(memory_format=layout)
    )
