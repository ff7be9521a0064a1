"""The rows of a network's parameters: what noise and gradient energy are counted by.

A row, which the papers call a filter, is one row of ``w.view(w.shape[0], -1)``: the weights of one
output channel. A parameter of one dimension (bias, scale and shift of a normalisation) is one row
as far as its norm goes.
"""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from rwp_dist.base.errors import ConfigError


class Rows:
    """The rows of one perturbed parameter."""

    def __init__(self, index: int, name: str, param: nn.Parameter, start: int) -> None:
        self.index = index
        """Position among all parameters of the network; part of the noise's key."""
        self.name = name
        self.param = param
        # ZeRO stage 3 empties the parameter itself and keeps its shape here.
        self.shape = torch.Size(getattr(param, "ds_shape", param.shape))
        self.is_matrix = len(self.shape) > 1
        count = self.shape[0] if self.is_matrix else self.shape.numel()
        self.place = slice(start, start + count)
        """Its rows in the table of energies; its elements if it has one dimension."""

    @property
    def length(self) -> int:
        """Elements of one row."""
        return self.shape.numel() // (self.shape[0] if self.is_matrix else 1)

    def spread(self, values: Tensor) -> Tensor:
        """Values of its rows, ``[rows]``, in a shape that broadcasts over the parameter."""
        shape = (-1, *([1] * (len(self.shape) - 1))) if self.is_matrix else self.shape
        return values.view(shape)


def list_rows(
    named_parameters: Iterable[tuple[str, nn.Parameter]], exclude: Sequence[str] = ()
) -> list[Rows]:
    """Rows of every trainable parameter with elements that no pattern of ``exclude`` names.

    See ``matches`` for patterns.
    """
    rows: list[Rows] = []
    start = 0
    for index, (name, param) in enumerate(named_parameters):
        one = Rows(index, name, param, start)
        if not param.requires_grad or not one.shape.numel():
            continue
        if matches(name, len(one.shape), exclude):
            continue
        rows.append(one)
        start = one.place.stop
    return rows


def matches(name: str, ndim: int, patterns: Sequence[str]) -> bool:
    """Whether a parameter is named by one of the patterns.

    A pattern is a name with ``*`` for anything; ``ndim<2`` names all biases and normalisation
    parameters.
    """
    small = ndim < 2 and "ndim<2" in patterns
    return small or any(fnmatchcase(name, pattern) for pattern in patterns)


def check_patterns(names: Iterable[str], patterns: Sequence[str], *, key: str) -> None:
    """Refuse patterns that name no parameter. ``key``: the setting that holds them.

    Raises:
        ConfigError: lists them, with names as the network has them.
    """
    known = list(names)
    idle = [p for p in patterns if p != "ndim<2" and not any(fnmatchcase(n, p) for n in known)]
    if idle:
        raise ConfigError(
            f"no parameter is named {' or '.join(map(repr, idle))}",
            key=key,
            cure=f"name them as in {', '.join(known[:4])}; * stands for anything",
        )
