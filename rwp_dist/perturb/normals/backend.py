"""Which program draws the noise: torch's generator, the Triton kernels, or the same in C."""

import importlib.util
import os
from typing import Literal

import torch

from rwp_dist.base.errors import ConfigError
from rwp_dist.base.home import kernels_folder
from rwp_dist.perturb.normals import native
from rwp_dist.perturb.normals.generator import Normals, TorchNormals

Backend = Literal["torch", "triton", "native"]

KEY = "backend"


def choose_backend(wanted: Backend | Literal["auto"], device: torch.device) -> Backend:
    """The backend that is asked for; ``auto`` is the fastest that runs on this machine.

    Raises:
        ConfigError: the backend that is asked for does not run here, or has no place for
            what it compiles.
    """
    has_triton = importlib.util.find_spec("triton") is not None
    if wanted == "auto":
        if device.type == "cuda":
            if has_triton:
                kernels_folder()
            return "triton" if has_triton else "torch"
        return "native" if device.type == "cpu" and native.is_fast() else "torch"
    if wanted == "native":
        if device.type != "cpu":
            raise ConfigError(
                f"native draws noise on the CPU, and this run is on {device.type}",
                key=KEY,
                cure="leave it at auto",
            )
        native.library()
    if wanted == "triton":
        if not has_triton:
            raise ConfigError(
                "Triton is not installed; torch brings it along on Linux only",
                key=KEY,
                cure="leave it at auto",
            )
        if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
            raise ConfigError(
                f"Triton's kernels do not run on {device.type}",
                key=KEY,
                cure="leave it at auto, or set TRITON_INTERPRET=1 to run them slowly",
            )
        kernels_folder()
    return wanted


def open_normals(backend: Backend, seed: int, device: torch.device) -> Normals:
    """What fills tensors on ``device`` with a backend's values."""
    if backend == "triton":
        from rwp_dist.perturb.normals.triton.fill import TritonNormals  # needs Triton

        return TritonNormals(seed, device)
    return native.NativeNormals(seed) if backend == "native" else TorchNormals(seed, device)
