"""Floating-point operations of a network, and how many of them a device could do."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from rwp_dist.run.trial import META, call_with, copies_of

PEAK_TFLOPS = {
    # Ampere; the A10G has a data sheet of NVIDIA's and AWS's.
    "A100-SXM4-40GB": 312.0,
    "A100-SXM4-80GB": 312.0,
    "A100-PCIE-40GB": 312.0,
    "A100 80GB PCIe": 312.0,
    "A30": 165.0,
    "A10": 125.0,
    "A10G": 70.0,
    # Ada
    "L4": 121.0,
    "L40S": 362.0,
    # Hopper
    "H100 80GB HBM3": 989.0,
    "H100 PCIe": 756.0,
    "H200": 989.0,
}
"""Dense bf16 operations with sums in fp32, in 10¹² per s, by the name that CUDA gives a device.

From NVIDIA's data sheets, which state twice as many "with sparsity" for most. Whole names: a MIG
slice or another variant of a chip has a peak of its own.
"""


def peak_tflops(device: torch.device, precision: str) -> float | None:
    """The device's peak in a run of this precision, in 10¹² operations per s.

    None on a CPU, on a device that is not in the table, and in fp32: there cuDNN takes TF32 for
    convolutions and cuBLAS does not for products, so that neither peak is the run's.
    """
    if device.type != "cuda" or precision == "fp32":
        return None
    return PEAK_TFLOPS.get(torch.cuda.get_device_name(device).removeprefix("NVIDIA "))


@dataclass(frozen=True)
class Pass:
    """Forward and backward of one image ``[channels, size, size]``."""

    flops: float
    """Floating-point operations of both."""
    calls: int
    """Operations that the host starts on a device, for any number of images."""
    gradients: tuple[tuple[int, float], ...]
    """Elements of each gradient, and the share of the backward pass's floating-point operations
    after which it is there; in that order."""


def count_flops(model: nn.Module, channels: int, size: int) -> float | None:
    """Floating-point operations of forward and backward of one image ``[channels, size, size]``.

    A multiplication and an addition are two. Counted are matrix products, convolutions and
    attention, with their gradients by inputs and weights where these are needed: about three times
    the forward pass. Not counted is what takes little of them: element-wise functions,
    normalisation, pooling, the loss. What a network recomputes in its backward pass is counted
    again.

    The pass is one of shapes alone (meta tensors). It changes neither the network nor torch's
    generator. None for a network that cannot do it.
    """
    found = profile_pass(model, channels, size)
    return found.flops or None if found else None


def profile_pass(model: nn.Module, channels: int, size: int) -> Pass | None:
    """What forward and backward of one image consist of, counted as by ``count_flops``."""
    from torch.utils.flop_counter import FlopCounterMode  # imports triton

    copies = copies_of(model, META)
    # One image alone may be too few for BatchNorm.
    images = torch.empty(2, channels, size, size, device=META)
    counter = FlopCounterMode(
        display=False,
        custom_mapping={torch.ops.aten.convolution_backward: _convolution_backward},
    )
    calls, ready = _Calls(), list[tuple[int, int]]()

    def arrived(param: Tensor) -> None:
        ready.append((param.numel(), counter.get_total_flops()))

    for tensor in set(copies.values()):
        if tensor.requires_grad:
            tensor.register_post_accumulate_grad_hook(arrived)
    try:
        with warnings.catch_warnings(), torch.enable_grad(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            with calls, counter:
                logits = call_with(model, copies, images)
                forward = counter.get_total_flops()
                logits.sum().backward()
    except Exception:  # a network of the user's may do anything, and a run needs no count
        return None
    total = counter.get_total_flops()
    backward = max(total - forward, 1)
    return Pass(
        total / len(images),
        calls.count,
        tuple((elements, (flops - forward) / backward) for elements, flops in ready),
    )


class _Calls(TorchDispatchMode):
    """Counts operations, but for those that only look at memory in another shape."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def _convolution_backward(
    grad_shape: Sequence[int],
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    _bias: object,
    _stride: object,
    _padding: object,
    _dilation: object,
    transposed: bool,
    _output_padding: object,
    _groups: object,
    output_mask: Sequence[bool],
    **_: object,
) -> int:
    """As many as forward for each of the two gradients that is needed.

    torch's own formula takes groups for dense: 40 times too many for EfficientNet.
    """
    pixels = math.prod((input_shape if transposed else grad_shape)[2:])
    forward = 2 * input_shape[0] * pixels * math.prod(weight_shape)
    return forward * (output_mask[0] + output_mask[1])
