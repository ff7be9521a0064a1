"""How large the noise of each row is, and noise onto weights, in few calls for many parameters."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from rwp_dist.perturb.normals.generator import Normals
from rwp_dist.perturb.rows import Rows

Scale = Literal["filter", "rms", "tensor", "element"]


class NoiseScale:
    """Standard deviations of the noise of some parameters: one float for each row.

    At sigma 1 the deviation is

    - ``filter``: the norm of the row (Li et al., TMLR 2024),
    - ``rms``: that over sqrt(n) for a row of n elements,
    - ``tensor``: the root mean square of the whole parameter,
    - ``element``: the absolute value of each element, which takes no table.
    """

    def __init__(self, rows: Sequence[Rows], scale: Scale, device: torch.device) -> None:
        """``rows``: parameters whose places in the table of energies follow each other."""
        self.params: list[nn.Parameter] = [r.param for r in rows]
        self.place = slice(rows[0].place.start, rows[-1].place.stop)
        """Their place in the table of energies."""
        self._scale = scale
        self._std = torch.ones(self.place.stop - self.place.start, device=device)
        starts = [r.place.start - self.place.start for r in rows]
        lengths = [r.place.stop - r.place.start for r in rows]
        views = [self._std.narrow(0, *at) for at in zip(starts, lengths, strict=True)]
        self._spread = [r.spread(view) for r, view in zip(rows, views, strict=True)]
        """Views of ``_std`` that broadcast over the parameters."""
        self._shrink: Tensor | None = None
        if scale == "element":
            return
        # One call takes the norms of parameters that have one norm; those of rows are written to
        # their place in the table.
        single = [scale == "tensor" or not r.is_matrix for r in rows]
        triples = list(zip(self.params, views, single, strict=True))
        self._by_row = [(param, view) for param, view, one in triples if not one]
        self._single: list[Tensor] = [param for param, _, one in triples if one]
        self._single_views = [view for _, view, one in triples if one]
        if scale != "filter":
            sizes = [r.shape.numel() if scale == "tensor" else r.length for r in rows]
            shrink = torch.tensor(sizes, dtype=torch.float32).rsqrt()
            self._shrink = shrink.repeat_interleave(torch.tensor(lengths)).to(device)

    def measure(self, sigma: float, divisor: Tensor | None = None) -> None:
        """Take the deviations from the present weights: ``sigma x scale / divisor``.

        Args:
            sigma: noise level; a negative one turns the noise around.
            divisor: of every row in ``place`` (ARWP), ``[rows]``.
        """
        if self._scale == "element":
            self._std.fill_(sigma)
        else:
            for param, view in self._by_row:
                # In fp32 at least: the squares of fp16 weights would vanish.
                wide = torch.promote_types(param.dtype, view.dtype)
                out = view if wide == view.dtype else None
                norms = torch.linalg.vector_norm(param.flatten(1), dim=1, dtype=wide, out=out)
                if out is None:
                    view.copy_(norms)
            if self._single:
                torch._foreach_copy_(self._single_views, torch._foreach_norm(self._single))
            self._std.mul_(sigma)
            if self._shrink is not None:
                self._std.mul_(self._shrink)
        if divisor is not None:
            self._std.div_(divisor)

    def add_noise(self, targets: Sequence[Tensor], units: Sequence[Tensor]) -> None:
        """``target = param + unit x deviation`` for all parameters.

        Args:
            targets: of the parameters' shapes; may be the parameters.
            units: standard normal values of the same shapes.
        """
        for target, param, unit, std in zip(targets, self.params, units, self._spread, strict=True):
            self._add(target, param, unit, std)

    def draw_noise(
        self,
        targets: Sequence[Tensor],
        rows: Sequence[Rows],
        normals: Normals,
        step: int,
        draw: int,
    ) -> None:
        """The same with values drawn now, in a buffer as large as the largest parameter."""
        for target, r, std in zip(targets, rows, self._spread, strict=True):
            unit = torch.empty(r.shape, device=self._std.device)
            normals.fill(unit, step, draw, r.index)
            self._add(target, r.param, unit, std)

    def _add(self, target: Tensor, param: Tensor, unit: Tensor, std: Tensor) -> None:
        std = param.abs().mul_(std) if self._scale == "element" else std
        torch.addcmul(param, unit, std, out=target)
