"""Clipping of an update's gradient, without waiting for the device."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_

from rwp_dist.base.errors import ConfigError
from rwp_dist.config import Settings
from rwp_dist.engine.head import find_head

Clip = Callable[[Tensor], object]
"""Clips the gradients in place, given the norm of all of them."""


def choose_clip(model: nn.Module, settings: Settings) -> Clip | None:
    """What the settings ask for; None: nothing.

    Raises:
        ConfigError: it needs timm, which is not installed.
    """
    o = settings.optimizer
    trained = [param for param in model.parameters() if param.requires_grad]
    if o.clip_norm:
        return lambda norm: clip_grads_with_norm_(trained, o.clip_norm, norm)
    if o.clip_value:
        return lambda norm: clip_grad_value_(trained, o.clip_value)
    if o.clip_agc:
        return _adaptive(model, trained, o.clip_agc)
    return None


def _adaptive(model: nn.Module, trained: Sequence[nn.Parameter], factor: float) -> Clip:
    """Adaptive gradient clipping (Brock et al., ICML 2021, arXiv 2102.06171), but for the head."""
    try:
        from timm.utils.agc import adaptive_clip_grad
    except ImportError as error:
        raise ConfigError(
            "adaptive gradient clipping is timm's, and timm is not installed",
            key="optimizer.clip_agc",
            cure="run `pip install 'rwp-dist[timm]'`, or set optimizer.clip_norm instead",
        ) from error
    head = find_head(model)
    own = set() if head is None else set(head.parameters())
    clipped = [param for param in trained if param not in own]
    return lambda norm: adaptive_clip_grad(clipped, clip_factor=factor, eps=1e-3)
