"""Where the clean weights are while a pass sees perturbed ones."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from rwp_dist.base.errors import ConfigError


class CleanWeights(Protocol):
    """Brings the clean weights back after a perturbed pass. Never by subtraction.

    ``(w + e) - e`` is not ``w`` in floating point, and replicas would drift apart.
    """

    whole: bool
    """Whether every rank holds all parameters; otherwise they are gathered one at a time."""

    def perturbing(self, params: Sequence[nn.Parameter]) -> AbstractContextManager[list[Tensor]]:
        """Yields one tensor per parameter; write ``w + e`` into it.

        Inside the block the parameters are whole and clean. When it ends, the tensors that were
        written are the parameters.
        """

    def restore(self, *, last: bool) -> None:
        """End a perturbed pass. ``last``: the optimizer's step comes next."""

    def recover(self) -> None:
        """End a perturbed pass that raised."""

    def stepped(self, applied: bool | Tensor) -> None:
        """The optimizer's step is over; ``applied``: it was not skipped."""

    def ensure_clean(self) -> None:
        """Make the weights clean whatever has happened. A collective: all ranks call it."""


class PerturbedCopy:
    """Perturbed weights in memory of their own; nobody writes to the clean ones.

    During a perturbed pass the parameters point at the copy. So nothing is saved before the pass
    and nothing is copied back after it.
    """

    whole = True

    def __init__(self) -> None:
        self._copies: dict[nn.Parameter, Tensor] = {}
        self._clean: list[tuple[nn.Parameter, Tensor, int]] = []
        """Parameters that point at their copy at present, their own memory, and how often they had
        been written to when the pass began."""
        self.suspended = False
        """Whether the parameters are clean for a moment, in the middle of a pass."""

    def exchange(self) -> None:
        """Clean weights for a moment in the middle of a pass, or back to the perturbed ones."""
        for place, (param, other, version) in enumerate(self._clean):
            self._clean[place] = (param, param.data, version)
            param.data = other
        self.suspended = not self.suspended
        forget_casts()

    @contextmanager
    def perturbing(self, params: Sequence[nn.Parameter]) -> Iterator[list[Tensor]]:
        for param in params:
            if param not in self._copies:
                self._copies[param] = torch.empty_like(param.detach())
        copies = [self._copies[param] for param in params]
        yield copies
        for param, copy in zip(params, copies, strict=True):
            self._clean.append((param, param.data, param._version))
            param.data = copy

    def restore(self, *, last: bool) -> None:
        written = any(param._version != version for param, _, version in self._clean)
        self.recover()
        if written:
            raise ConfigError(
                "the weights were changed in the middle of a pass, and these changes are lost",
                key="step",
                cure="step the optimizer after the block, or attach the one that steps first",
            )

    def recover(self) -> None:
        if self.suspended:
            self.exchange()
        while self._clean:
            param, clean, _ = self._clean[-1]
            param.data = clean
            self._clean.pop()  # after it, should a signal come in between

    def stepped(self, applied: bool | Tensor) -> None:
        pass

    def ensure_clean(self) -> None:
        self.recover()

    def free(self) -> None:
        """Give back the memory of the copies, until there are perturbed weights again."""
        self._copies.clear()


def forget_casts() -> None:
    """Autocast keeps 16-bit copies of weights inside its block; these are of other weights now."""
    if torch.is_autocast_cache_enabled():
        torch.clear_autocast_cache()
