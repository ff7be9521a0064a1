"""The filters of a network: what noise and energy are counted by.

A filter is one row of ``w.view(w.shape[0], -1)``; a tensor of one dimension (bias, scale and
shift of a normalisation) is one filter as far as its norm goes.
"""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn

from rwp_dist.base.errors import ConfigError


class Filter:
    """One perturbed parameter and where its filters lie in the flat table of all."""

    def __init__(self, index: int, name: str, param: nn.Parameter, start: int) -> None:
        self.index = index
        """Position among all parameters of the network; part of the noise's key."""
        self.name = name
        self.param = param
        self.shape = param.shape  # kept, because ZeRO stage 3 empties the parameter itself
        self.many = param.ndim > 1
        num_rows = param.shape[0] if self.many else param.numel()
        self.rows = slice(start, start + num_rows)
        """Its filters, or its elements if it has one dimension, in the table of energies."""

    def spread(self, rows: Tensor) -> Tensor:
        """Values of filters, ``[rows]``, in a shape that broadcasts over the parameter."""
        return rows.view(-1, *([1] * (len(self.shape) - 1))) if self.many else rows.view(self.shape)

    @property
    def size(self) -> int:
        """Elements of one filter."""
        return self.shape.numel() // (max(self.shape[0], 1) if self.many else 1)


def list_filters(
    named_parameters: Iterable[tuple[str, nn.Parameter]], exclude: Sequence[str] = ()
) -> list[Filter]:
    """Every trainable parameter that no pattern of ``exclude`` names.

    ``ndim<2`` as a pattern names all biases and normalisation parameters.
    """
    filters: list[Filter] = []
    start = 0
    for index, (name, param) in enumerate(named_parameters):
        dull = param.ndim < 2 and "ndim<2" in exclude
        if not param.requires_grad or dull or any(fnmatchcase(name, p) for p in exclude):
            continue
        filters.append(Filter(index, name, param, start))
        start = filters[-1].rows.stop
    return filters


def check_patterns(names: Iterable[str], exclude: Sequence[str]) -> None:
    """Refuse patterns that name no parameter.

    Raises:
        ConfigError: lists them, with names as the network has them.
    """
    known = list(names)
    idle = [p for p in exclude if p != "ndim<2" and not any(fnmatchcase(n, p) for n in known)]
    if idle:
        raise ConfigError(
            f"method.exclude: no parameter is named {' or '.join(map(repr, idle))}; they are named "
            f"as in {', '.join(known[:4])}, and * stands for anything."
        )
