"""Gradient checkpointing (``model.checkpointing``): a backward pass computes blocks again.

Of each block only its input is kept (Chen et al., "Training deep nets with sublinear memory cost",
2016, arXiv 1604.06174), by ``torch.utils.checkpoint``. The second computation has the bits of the
first: it happens in the backward pass of the same slot, so it sees the same perturbed weights;
torch's generator is set back for it, so dropout is the same; and BatchNorm, which normalises by
the batch in both, does not count that batch twice.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from rwp_dist.base.errors import ConfigError

BLOCKS = {
    "torchvision.models.resnet": ("BasicBlock", "Bottleneck"),
    "torchvision.models.vision_transformer": ("EncoderBlock",),
    "torchvision.models.swin_transformer": ("SwinTransformerBlock", "SwinTransformerBlockV2"),
    "torchvision.models.convnext": ("CNBlock",),
    "timm.models.resnet": ("BasicBlock", "Bottleneck"),
    "timm.models.vision_transformer": ("Block", "ResPostBlock", "ParallelScalingBlock"),
    "timm.models.eva": ("EvaBlock", "EvaBlockPostNorm"),
    "timm.models.swin_transformer": ("SwinTransformerBlock",),
    "timm.models.swin_transformer_v2": ("SwinTransformerV2Block",),
    "timm.models.convnext": ("ConvNeXtBlock",),
}
"""Classes whose blocks are computed again, by module."""


def recompute_blocks(model: nn.Module) -> None:
    """Have the blocks of a network computed again in backward passes, in place.

    Names, hooks and state stay as they are: a block gets a subclass of its class.

    Raises:
        ConfigError: it is not known which modules are its blocks.
    """
    for block in find_blocks(model):
        block.__class__ = _recomputed(type(block))


def find_blocks(model: nn.Module) -> list[nn.Module]:
    """The modules that are computed again.

    Raises:
        ConfigError: none is known, or the user's ``checkpointed_blocks()`` returns something else.
    """
    own = getattr(model, "checkpointed_blocks", None)
    if own is None:
        blocks = [m for m in model.modules() if type(m).__name__ in BLOCKS.get(_module(m), ())]
        problem = f"it is not known which modules of a {type(model).__name__} are its blocks"
    else:
        blocks = list(own())
        known = set(model.modules()) - {model}
        problem = "checkpointed_blocks() returns something else than modules inside the network"
        blocks = blocks if known.issuperset(blocks) else []
    if not blocks or _nested(blocks):
        raise ConfigError(
            "one block is inside another" if blocks else problem,
            key="model.checkpointing",
            cure="set it to false, or give the network a method checkpointed_blocks() that returns "
            "a list of modules, none inside another",
        )
    return list(dict.fromkeys(blocks))


def when_computed_again(model: nn.Module) -> list[Callable[[], Any]]:
    """What each block computes in a backward pass; filled by the next forward pass.

    Args:
        model: whose blocks are computed again.
    """
    again: list[Callable[[], Any]] = []

    def note(block: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        kind: Any = type(block).__base__
        again.append(partial(kind.forward, block, *inputs, **named))

    for block in find_blocks(model):
        block.register_forward_pre_hook(note, with_kwargs=True)
    return again


def _module(block: nn.Module) -> str:
    return type(block).__module__


def _nested(blocks: Sequence[nn.Module]) -> bool:
    inside = {inner for block in blocks for inner in block.modules() if inner is not block}
    return not inside.isdisjoint(blocks)


def _recomputed(kind: type[nn.Module]) -> type[nn.Module]:
    """The same class, of which a pass with gradients keeps its inputs alone."""

    def forward(self: nn.Module, *inputs: Any, **named: Any) -> Any:
        first = partial(kind.forward, self)
        if not torch.is_grad_enabled():
            return first(*inputs, **named)
        contexts = partial(_contexts, self)
        return checkpoint(first, *inputs, use_reentrant=False, context_fn=contexts, **named)

    return type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[Any]]:
    """What surrounds the first and the second computation."""
    return nullcontext(), _Again(block)


class _Again:
    """Around each further computation of a block, of which a second backward pass makes more."""

    def __init__(self, block: nn.Module) -> None:
        self._block = block
        self._own: list[tuple[nn.Module, dict[str, Tensor | None]]] = []
        self._norms = [m for m in block.modules() if isinstance(m, _NormBase) and m.training]
        counted = {id(b) for layer in self._norms for b in layer.buffers()}
        self._others = {n: b for n, b in block.named_buffers() if id(b) not in counted}
        self._versions = [b._version for b in self._others.values()]

    def __enter__(self) -> None:
        self._check_buffers()
        # Copies take what the second computation would count. It saves as many tensors for its
        # gradients as the first, so that statistics cannot just be switched off.
        for layer in self._norms:
            self._own.append((layer, dict(layer._buffers)))
            copies = {n: b.clone() for n, b in layer._buffers.items() if b is not None}
            layer._buffers.update(copies)

    def __exit__(self, *error: Any) -> None:
        while self._own:
            layer, own = self._own.pop()
            layer._buffers.update(own)

    def _check_buffers(self) -> None:
        """Refuse a block whose passes change what they depend on.

        Raises:
            ConfigError: the first pass has changed a buffer, as that of a spectral norm does.
        """
        now = dict(self._block.named_buffers())
        for (name, buffer), version in zip(self._others.items(), self._versions, strict=True):
            if now.get(name) is not buffer or buffer._version != version:
                raise ConfigError(
                    f"a pass changes the buffer {name} of a {type(self._block).__name__}, so "
                    "computing the block again would give something else",
                    key="model.checkpointing",
                    cure="set it to false, or leave this block out of checkpointed_blocks()",
                )
