"""Standard deviations of the noise, and the noise put onto weights: few calls for many parameters.

What depends on the weights is one float for each filter. Noise of full size exists only once, as
the unit noise that is handed in.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from rwp_dist.perturb.normals.generator import Noise
from rwp_dist.perturb.rows import Filter

Scale = Literal["filter", "rms", "tensor", "element"]


class Deviations:
    """Standard deviations of the noise of some parameters, one float for each filter.

    At sigma 1 it is, by ``scale``: ``filter``, the norm of the filter (Li et al., filter-wise
    noise). ``rms``: that over sqrt(n). ``tensor``: root mean square of the whole tensor.
    ``element``: absolute value of the element, and so nothing that is kept here.
    """

    def __init__(self, filters: Sequence[Filter], scale: Scale, device: torch.device) -> None:
        """``filters``: neighbours in the table of all filters."""
        self.params: list[nn.Parameter] = [f.param for f in filters]
        self.rows = slice(filters[0].rows.start, filters[-1].rows.stop)
        """Their filters in the table of energies."""
        self._scale = scale
        self._std = torch.ones(self.rows.stop - self.rows.start, device=device)
        starts = [f.rows.start - self.rows.start for f in filters]
        lengths = [f.rows.stop - f.rows.start for f in filters]
        rows = [self._std.narrow(0, *place) for place in zip(starts, lengths, strict=True)]
        self._spread = [f.spread(r) for f, r in zip(filters, rows, strict=True)]
        """Views of ``_std`` that broadcast over the parameters."""
        self._shrink: Tensor | None = None
        if scale == "element":
            return
        # Norms of parameters that are one filter, or are asked for as a whole, come from one call;
        # the others' are written to their place in the table.
        whole = [scale == "tensor" or not f.many for f in filters]
        places = list(zip(self.params, rows, whole, strict=True))
        self._by_row = [(param, row) for param, row, one in places if not one]
        self._whole: list[Tensor] = [param for param, _, one in places if one]
        self._whole_rows = [row for _, row, one in places if one]
        if scale != "filter":
            sizes = [f.shape.numel() if scale == "tensor" else f.size for f in filters]
            shrink = torch.tensor(sizes, dtype=torch.float32).rsqrt()
            self._shrink = shrink.repeat_interleave(torch.tensor(lengths)).to(device)

    @property
    def num_bytes(self) -> int:
        """Size of the tables."""
        return self._std.nbytes + (self._shrink.nbytes if self._shrink is not None else 0)

    def measure(self, sigma: float, divisor: Tensor | None = None) -> None:
        """Take the deviations from the weights as they are: ``sigma x scale / divisor``.

        Args:
            sigma: noise level; negative turns the noise around.
            divisor: of every filter in ``rows`` (ARWP), ``[rows]``.
        """
        if self._scale == "element":
            self._std.fill_(sigma)
        else:
            for param, row in self._by_row:
                torch.linalg.vector_norm(param.flatten(1), dim=1, dtype=self._std.dtype, out=row)
            if self._whole:
                torch._foreach_copy_(self._whole_rows, torch._foreach_norm(self._whole))
            self._std.mul_(sigma)
            if self._shrink is not None:
                self._std.mul_(self._shrink)
        if divisor is not None:
            self._std.div_(divisor)

    def add_noise(self, targets: Sequence[Tensor], units: Sequence[Tensor]) -> None:
        """``target = param + unit x deviation`` for all parameters.

        Args:
            targets: of the parameters' shapes; may be the parameters.
            units: unit noise, of the same shapes.
        """
        for target, param, unit, std in zip(targets, self.params, units, self._spread, strict=True):
            self._add(target, param, unit, std)

    def draw_noise(
        self,
        targets: Sequence[Tensor],
        filters: Sequence[Filter],
        noise: Noise,
        step: int,
        draw: int,
    ) -> None:
        """The same with noise drawn now, in a buffer no larger than the largest parameter."""
        for target, filter_, std in zip(targets, filters, self._spread, strict=True):
            unit = torch.empty(filter_.shape, device=self._std.device)
            noise.fill(unit, step, draw, filter_.index)
            self._add(target, filter_.param, unit, std)

    def _add(self, target: Tensor, param: Tensor, unit: Tensor, std: Tensor) -> None:
        std = param.abs().mul_(std) if self._scale == "element" else std
        torch.addcmul(param, unit, std, out=target)
