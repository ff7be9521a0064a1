"""Noise onto weights, and gradient energy, by one kernel launch each (``noise.backend: triton``).

The noise of a pass exists in registers only: nothing is drawn ahead and there is no buffer.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from rwp_dist.base.errors import ConfigError
from rwp_dist.perturb.normals.philox import noise_key
from rwp_dist.perturb.normals.triton import kernels
from rwp_dist.perturb.normals.triton.table import TYPES, RowTable, rows_are_dense
from rwp_dist.perturb.rows import Rows
from rwp_dist.perturb.scale import Scale

LAUNCH = {"enable_fp_fusion": True, "num_warps": 1}
"""One warp a row: most rows are so short that the warps of a larger block would wait for each
other, to add up the norm. On an H200 it takes 0.8 of the time of four warps."""


class FusedNoise:
    """Noise onto some parameters."""

    def __init__(self, rows: Sequence[Rows], scale: Scale, seed: int, device: torch.device) -> None:
        """Group the parameters by type.

        Raises:
            ConfigError: a parameter has a type or a layout that the kernels cannot read.
        """
        self.params = [r.param for r in rows]
        self._order = [r.index for r in rows]
        self._scale, self._seed = scale, seed
        groups: dict[torch.dtype, list[Rows]] = {}
        for r in rows:
            if r.param.dtype not in TYPES or not rows_are_dense(r.param):
                raise ConfigError(
                    f"the kernels cannot perturb {r.name} ({r.param.dtype}, strides "
                    f"{r.param.stride()}); they take fp32, bf16 or fp16, each row in one piece",
                    key="backend",
                    cure="set it to torch",
                )
            groups.setdefault(r.param.dtype, []).append(r)
        self._tables = {dtype: RowTable(group, device) for dtype, group in groups.items()}
        self._shrink = {
            dtype: torch.tensor([r.shape.numel() for r in table.order]).rsqrt().to(device)
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
            step: update, counted from 0; with ``draw`` the key of the noise.
            draw: which noise of the step.
            sigma: noise level; a negative one turns the noise around.
            energies: F of every row (ARWP), ``[rows of all parameters]``. None: plain RWP.
            eta: see above.
            power: see above.
        """
        key = noise_key(self._seed, step, draw)
        by_index = dict(zip(self._order, targets, strict=True))
        for dtype, table in self._tables.items():
            params: list[Tensor] = [r.param for r in table.order]
            places = table.places(params, [by_index[r.index] for r in table.order])
            sizes, sums = None, None
            if self._scale in ("filter", "rms"):
                sums = table.sum_pieces(places, TYPES[dtype])
            elif self._scale == "tensor":
                norms = torch._foreach_norm(params, dtype=torch.float32)
                sizes = torch.stack(norms) * self._shrink[dtype]
            kernels.perturb_rows[(len(table.programs),)](
                table.programs,
                places,
                sums,
                sizes,
                energies,
                signed_word(key % 2**32),
                signed_word(key >> 32),
                sigma,
                eta,
                power,
                scale=self._scale,
                adaptive=energies is not None,
                split=sums is not None,
                dtype=TYPES[dtype],
                **LAUNCH,
            )


class FusedEnergy:
    """Gradient energy of rows. Gradients are collected, so that one launch adds up many.

    A collected gradient stays in memory, so a bucket is small. Nobody may change it in place
    meanwhile, as DeepSpeed does with one that is larger than its own bucket.
    """

    def __init__(self, device: torch.device, bucket_bytes: int) -> None:
        """``bucket_bytes``: size of collected gradients at which they are added up."""
        self._device = device
        self._energies: Tensor | None = None
        self._bucket_bytes = bucket_bytes
        self._held: list[tuple[Rows, Tensor]] = []
        self._held_bytes = 0
        self._factor = 1.0
        self._tables: dict[tuple[int, ...], RowTable] = {}

    def collect(self, rows: Rows, grad: Tensor, factor: float, energies: Tensor) -> None:
        """Count ``factor |g_j|^2``, at the latest at the next ``flush``.

        Args:
            rows: the rows of the parameter whose gradient it is.
            grad: of the parameter's shape.
            factor: the same for all gradients between two calls of ``flush``.
            energies: the table to add to, likewise the same, ``[rows of all parameters]``.
        """
        assert not self._held or factor == self._factor, "gradients of two passes in one bucket"
        if not rows_are_dense(grad):
            grad = grad.contiguous()
        self._factor, self._energies = factor, energies
        self._held.append((rows, grad))
        self._held_bytes += grad.numel() * grad.element_size()
        if self._held_bytes >= self._bucket_bytes:
            self.flush()

    @property
    def empty(self) -> bool:
        """Whether nothing is collected."""
        return not self._held

    def flush(self) -> None:
        """Add up the collected gradients, and release them."""
        groups: dict[torch.dtype, list[tuple[Rows, Tensor]]] = {}
        for rows, grad in self._held:
            groups.setdefault(grad.dtype, []).append((rows, grad))
        energies, self._energies = self._energies, None
        self._held, self._held_bytes = [], 0
        for dtype, group in groups.items():
            table = self._table([rows for rows, _ in group])
            grads = {rows.index: grad for rows, grad in group}
            places = table.places(grads[r.index] for r in table.order)
            sums = table.sum_pieces(places, TYPES[dtype])
            kernels.add_energy_rows[(len(table.programs),)](
                table.programs,
                places,
                sums,
                energies,
                self._factor,
                split=sums is not None,
                dtype=TYPES[dtype],
                **LAUNCH,
            )

    def _table(self, rows: list[Rows]) -> RowTable:
        """Backward passes take the same way every time, so buckets repeat themselves."""
        key = tuple(r.index for r in rows)
        if key not in self._tables:
            self._tables[key] = RowTable(rows, self._device)
        return self._tables[key]


def signed_word(word: int) -> int:
    """A word as int32, so that the kernel is compiled once for all keys."""
    return word - 2**32 if word >= 2**31 else word
