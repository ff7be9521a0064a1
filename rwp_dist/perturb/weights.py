"""Where clean weights are while a pass sees perturbed ones."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn


class CleanWeights(Protocol):
    """Keeps the clean weights, by a copy or because something else will bring them back."""

    whole: bool
    """Every rank holds all parameters; otherwise they are had one at a time."""

    def perturbing(self, params: Sequence[nn.Parameter]) -> AbstractContextManager[list[Tensor]]:
        """Inside, the whole parameters are there to be read.

        Yields what perturbed weights are to be written to, the parameters' own memory or other;
        they are the parameters from the end of the context on.
        """

    def restore(self, *, last: bool) -> None:
        """Called after the pass. ``last``: the optimizer's step is next."""

    def recover(self) -> None:
        """Called instead of restore when the pass raised."""


class PerturbedCopy:
    """Perturbed weights in memory of their own: the clean ones stay where they are, untouched.

    Parameters are the copy during a perturbed pass, and their own memory again after it. There is
    nothing to save and nothing to copy back.
    """

    whole = True

    def __init__(self) -> None:
        self._copies: dict[nn.Parameter, Tensor] = {}
        self._clean: list[tuple[nn.Parameter, Tensor]] = []
        """Parameters that are their copy at present, and their own memory."""

    @contextmanager
    def perturbing(self, params: Sequence[nn.Parameter]) -> Iterator[list[Tensor]]:
        """Yields the copy, which is the parameters from the end of the context on."""
        for param in params:
            if param not in self._copies:
                self._copies[param] = torch.empty_like(param.detach())
        copies = [self._copies[param] for param in params]
        yield copies
        for param, copy in zip(params, copies, strict=True):
            self._clean.append((param, param.data))
            param.data = copy

    def restore(self, *, last: bool) -> None:
        """Parameters are their own memory again."""
        self.recover()

    def recover(self) -> None:
        """As ``restore``."""
        while self._clean:
            param, clean = self._clean[-1]
            param.data = clean
            self._clean.pop()  # after it, should a signal come in between

    def stepped(self, applied: bool) -> None:
        """Nothing to do: the weights are clean in any case."""

    def ensure_clean(self) -> None:
        """As ``recover``, for what raised past it."""
        self.recover()
