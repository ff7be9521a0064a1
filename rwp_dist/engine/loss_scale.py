"""The factor of losses in fp16, so that small gradients do not become zero."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

FIRST, GROWTH, BACKOFF, INTERVAL = 2.0**16, 2.0, 0.5, 2000
"""Those of ``torch.amp.GradScaler``: the scale at first; its factors after so many updates in a row
that were not skipped, and after one that was."""


class LossScale:
    """A power of two that losses are multiplied by before their backward pass.

    It follows the rule of ``torch.amp.GradScaler``, on the device, so that no step waits for it.
    The gradient of a parameter is in fp32, where nothing underflows. It is divided by the scale at
    once, which is exact: before it is added up, reduced over the ranks, observed or clipped. So
    nothing else in a run knows the scale. A gradient that is not finite stays so, and its update is
    skipped.
    """

    def __init__(self, params: Iterable[nn.Parameter], device: torch.device) -> None:
        """``params``: all that have gradients."""
        self._scale = torch.full((), FIRST, device=device)
        self._inverse = self._scale.reciprocal()
        self._in_a_row = torch.zeros((), dtype=torch.int32, device=device)
        """Updates since the last change of the scale or the last skipped one."""
        self._hooks = [param.register_hook(self._unscaled) for param in params]

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss, to begin a backward pass with."""
        return loss * self._scale

    def _unscaled(self, grad: Tensor) -> Tensor:
        return grad * self._inverse

    def after_step(self, step: int, applied: bool | Tensor) -> None:
        """Adapt the scale; ``applied``: the update was not skipped."""
        skipped = ~torch.as_tensor(applied, device=self._scale.device)
        torch._amp_update_scale_(
            self._scale, self._in_a_row, skipped.float(), GROWTH, BACKOFF, INTERVAL
        )
        torch.reciprocal(self._scale, out=self._inverse)

    def evaluated(self) -> dict[str, dict[str, Tensor]]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {"scale": float(self._scale), "in_a_row": int(self._in_a_row)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._scale.fill_(state["scale"])
        self._in_a_row.fill_(state["in_a_row"])
        torch.reciprocal(self._scale, out=self._inverse)

    def close(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()
