"""Which program draws the noise: torch's generator, the Triton kernels, or their likeness in C."""

import importlib.util
import os
from collections.abc import Mapping
from typing import Any, Literal

import torch

from rwp_dist.base.errors import ConfigError
from rwp_dist.perturb.normals import native

Backend = Literal["torch", "triton", "native"]

ENERGY_BUCKET_BYTES = 2**23
"""Size of gradients that the kernels collect before they add up their energy."""


def choose_backend(wanted: Backend | Literal["auto"], device: torch.device) -> Backend:
    """What is wanted; ``auto`` is the fastest that runs here.

    Raises:
        ConfigError: something is wanted that cannot run here.
    """
    installed = importlib.util.find_spec("triton") is not None
    if wanted == "auto":
        if device.type == "cuda":
            return "triton" if installed else "torch"
        return "native" if native.is_fast() else "torch"
    if wanted == "native":
        if device.type != "cpu":
            raise ConfigError(
                f"noise.backend=native draws noise on the CPU, and this run is on {device.type}; "
                "leave the setting at auto."
            )
        native.library()
    if wanted == "triton":
        if not installed:
            raise ConfigError(
                "noise.backend=triton, but Triton is not installed: torch brings it along on Linux "
                "only; leave the setting at auto."
            )
        if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
            raise ConfigError(
                f"noise.backend=triton, but this run is on {device.type}, where its kernels do not "
                "run; leave the setting at auto, or set TRITON_INTERPRET=1 to run them slowly."
            )
    return wanted


def check_buckets(backend: Backend, extra: Mapping[str, Any]) -> None:
    """Refuse buckets of DeepSpeed in which gradients change while the kernels still collect them.

    Args:
        backend: what adds up the energy of ARWP.
        extra: the setting ``deepspeed.extra``.

    Raises:
        ConfigError: with triton they are smaller than the kernels' own, or switched off.
    """
    zero = extra.get("zero_optimization", {})
    small = 4 * zero.get("reduce_bucket_size", ENERGY_BUCKET_BYTES) < ENERGY_BUCKET_BYTES
    if backend == "triton" and (small or not zero.get("contiguous_gradients", True)):
        raise ConfigError(
            "deepspeed.extra.zero_optimization: with arwp and the Triton kernels gradients need "
            f"contiguous_gradients and a reduce_bucket_size of {ENERGY_BUCKET_BYTES // 4:,} or "
            "more; change these, or set noise.backend=torch."
        )
