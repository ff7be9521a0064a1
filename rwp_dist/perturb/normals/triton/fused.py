"""Perturbation and gradient energy by one kernel launch each (``noise.backend: triton``).

The noise of a pass exists in registers only: there is nothing to draw ahead, and no buffer. Tables
by which the kernels find the weights stay on the device as long as the weights stay where they
are, so that a step copies nothing to it and waits for nothing. This file needs Triton.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from rwp_dist.base.errors import ConfigError
from rwp_dist.perturb.normals.backend import ENERGY_BUCKET_BYTES
from rwp_dist.perturb.normals.philox import noise_key
from rwp_dist.perturb.normals.triton import kernels
from rwp_dist.perturb.rows import Filter
from rwp_dist.perturb.scale import Scale

_TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


class RowTable:
    """Where the filter rows of some tensors lie, on the device."""

    def __init__(self, filters: Sequence[Filter], device: torch.device) -> None:
        self.filters = sorted(filters, key=lambda f: -f.size)
        """Long rows first: one that is begun last would keep the device waiting."""
        piece = kernels.PIECE.value
        table = []
        for number, f in enumerate(self.filters):
            num_rows, num_pieces = f.shape[0] if f.many else 1, max(-(-f.size // piece), 1)
            rows, pieces = torch.arange(num_rows), torch.arange(num_pieces)
            numbers = torch.full((num_rows * num_pieces,), number)
            table.append(
                torch.stack(
                    [numbers, rows.repeat_interleave(num_pieces), pieces.repeat(num_rows)], 1
                )
            )
        self.rows = torch.cat(table).to(torch.int32).to(device)
        """``[programs, 3]``: number of a tensor, row within it, piece of the row."""
        split = sum(len(t) for t, f in zip(table, self.filters, strict=True) if f.size > piece)
        self._sums = torch.empty(split, device=device) if split else None
        self._fixed = [(f.size, f.rows.start, int(not f.many), f.index) for f in self.filters]
        self._addresses: list[int] = []
        self._places = torch.empty(0)

    def places(self, tensors: Iterable[Tensor], targets: Iterable[Tensor] = ()) -> Tensor:
        """``[tensors, 6]`` as the kernels want it; copied to the device if a storage is new.

        Args:
            tensors: the parameters, or their gradients, in the order of ``filters``; rows dense.
            targets: what is written to, laid out like ``tensors``.
        """
        addresses = [t.data_ptr() for t in tensors]
        written = [t.data_ptr() for t in targets] or [0] * len(addresses)
        if addresses + written != self._addresses:
            table = [
                (a, *fixed, w) for a, fixed, w in zip(addresses, self._fixed, written, strict=True)
            ]
            pinned = self.rows.is_cuda  # so that the host need not wait for the copy
            places = torch.tensor(table, dtype=torch.int64, pin_memory=pinned)
            self._places = places.to(self.rows.device, non_blocking=True)
            self._addresses = addresses + written
        return self._places

    def sum_pieces(self, places: Tensor, dtype: tl.dtype) -> Tensor | None:
        """Sums of squares of all pieces of long rows; None if there is no long row."""
        if self._sums is not None:
            kernels.sum_pieces[(len(self._sums),)](self.rows, places, self._sums, dtype=dtype)
        return self._sums


class FusedNoise:
    """Noise onto some parameters."""

    def __init__(
        self, filters: Sequence[Filter], scale: Scale, seed: int, device: torch.device
    ) -> None:
        """Group the parameters by type.

        Raises:
            ConfigError: a parameter is not stored in a way that the kernels can read.
        """
        self.params = [f.param for f in filters]
        self._order = [f.index for f in filters]
        self._scale, self._seed = scale, seed
        groups: dict[torch.dtype, list[Filter]] = {}
        for f in filters:
            if f.param.dtype not in _TYPES or not _rows_are_dense(f.param):
                raise ConfigError(
                    f"noise.backend: the kernels cannot perturb {f.name} ({f.param.dtype}, strides "
                    f"{f.param.stride()}): they take fp32, bf16 or fp16, and filters that are each "
                    "in one piece; set noise.backend=torch."
                )
            groups.setdefault(f.param.dtype, []).append(f)
        self._tables = {dtype: RowTable(group, device) for dtype, group in groups.items()}
        self._shrink = {
            dtype: torch.tensor([f.shape.numel() for f in table.filters]).rsqrt().to(device)
            for dtype, table in self._tables.items()
        }

    @torch.no_grad()
    def add(
        self,
        targets: Sequence[Tensor],
        step: int,
        draw: int,
        sigma: float,
        energies: Tensor | None = None,
        eta: float = 0.0,
        power: float = 0.5,
    ) -> None:
        """``target = w + unit noise x sigma x scale / (1 + eta F)^power`` for all weights.

        One launch, and one before it if there are long rows.

        Args:
            targets: laid out like ``params``; may be these.
            step: update, counted from 0; with ``draw`` the noise's key.
            draw: which noise of the step.
            sigma: noise level; negative turns the noise around.
            energies: F of every filter (ARWP), ``[rows of all filters]``. None: plain RWP.
            eta: see above.
            power: see above.
        """
        key = noise_key(self._seed, step, draw)
        by_index = dict(zip(self._order, targets, strict=True))
        for dtype, table in self._tables.items():
            params: list[Tensor] = [f.param for f in table.filters]
            places = table.places(params, [by_index[f.index] for f in table.filters])
            sizes, sums = None, None
            if self._scale in ("filter", "rms"):
                sums = table.sum_pieces(places, _TYPES[dtype])
            elif self._scale == "tensor":
                norms = torch._foreach_norm(params, dtype=torch.float32)
                sizes = torch.stack(norms) * self._shrink[dtype]
            kernels.perturb_rows[(len(table.rows),)](
                table.rows,
                places,
                sums,
                sizes,
                energies,
                _signed(key % 2**32),
                _signed(key >> 32),
                sigma,
                eta,
                power,
                scale=self._scale,
                adaptive=energies is not None,
                split=sums is not None,
                dtype=_TYPES[dtype],
                enable_fp_fusion=True,
            )


class FusedEnergy:
    """Gradient energy of filters; gradients are collected, so that one launch adds up many.

    Collecting keeps them in memory, which is why a bucket is small; and a gradient may only be
    collected as long as nobody changes it in place, as DeepSpeed does with one that is larger than
    its own bucket, and at stage 0 once the backward pass is over.
    """

    def __init__(self, device: torch.device, bucket_bytes: int = ENERGY_BUCKET_BYTES) -> None:
        """``bucket_bytes``: size of collected gradients at which they are added up."""
        self._device = device
        self._energies: Tensor | None = None
        self._bucket_bytes = bucket_bytes
        self._held: list[tuple[Filter, Tensor]] = []
        self._held_bytes = 0
        self._factor = 1.0
        self._tables: dict[tuple[int, ...], RowTable] = {}

    def collect(self, filter_: Filter, grad: Tensor, factor: float, energies: Tensor) -> None:
        """Count ``factor |g_j|^2``, at the latest at the next ``flush``.

        Args:
            filter_: whose gradient it is.
            grad: of the parameter's shape.
            factor: the same for all that is collected between two calls of ``flush``.
            energies: what it is added to, likewise the same, ``[rows of all filters]``.
        """
        assert not self._held or factor == self._factor, "gradients of two passes in one bucket"
        if not _rows_are_dense(grad):
            grad = grad.contiguous()
        self._factor, self._energies = factor, energies
        self._held.append((filter_, grad))
        self._held_bytes += grad.numel() * grad.element_size()
        if self._held_bytes >= self._bucket_bytes:
            self.flush()

    @property
    def empty(self) -> bool:
        """Whether nothing is collected."""
        return not self._held

    def flush(self) -> None:
        """Add up what was collected, and let go of it."""
        groups: dict[torch.dtype, list[tuple[Filter, Tensor]]] = {}
        for filter_, grad in self._held:
            groups.setdefault(grad.dtype, []).append((filter_, grad))
        energies, self._energies = self._energies, None
        self._held, self._held_bytes = [], 0
        for dtype, group in groups.items():
            table = self._table([filter_ for filter_, _ in group])
            grads = {filter_.index: grad for filter_, grad in group}
            places = table.places(grads[f.index] for f in table.filters)
            sums = table.sum_pieces(places, _TYPES[dtype])
            kernels.add_energy_rows[(len(table.rows),)](
                table.rows,
                places,
                sums,
                energies,
                self._factor,
                split=sums is not None,
                dtype=_TYPES[dtype],
                enable_fp_fusion=True,
            )

    def _table(self, filters: list[Filter]) -> RowTable:
        """Backward passes take the same way every time, so buckets repeat themselves."""
        key = tuple(f.index for f in filters)
        if key not in self._tables:
            self._tables[key] = RowTable(filters, self._device)
        return self._tables[key]


def _rows_are_dense(tensor: Tensor) -> bool:
    """Whether each row of ``tensor`` is one piece of memory, one after the other."""
    formats: dict[int, Any] = {4: torch.channels_last, 5: torch.channels_last_3d}
    layout = formats.get(tensor.ndim)
    return tensor.is_contiguous() or (
        layout is not None and tensor.is_contiguous(memory_format=layout)
    )


def _signed(word: int) -> int:
    """A word as int32, so that the kernel is compiled once for all keys."""
    return word - 2**32 if word >= 2**31 else word
