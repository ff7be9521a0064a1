"""Which program draws the noise: torch's generator, or the Triton kernels."""

import importlib.util
import os
from typing import Literal

import torch

from rwp_dist.errors import ConfigError

Backend = Literal["torch", "triton"]


def choose_backend(wanted: Literal["auto", "torch", "triton"], device: torch.device) -> Backend:
    """The kernels on a GPU if Triton is installed, else torch; or what is wanted.

    Raises:
        ConfigError: the kernels are wanted where they cannot run.
    """
    installed = importlib.util.find_spec("triton") is not None
    if wanted == "auto":
        return "triton" if installed and device.type == "cuda" else "torch"
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
