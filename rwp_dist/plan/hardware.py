"""GPUs and links: every constant of `rwp-dist plan`, with its source. Imports no torch."""

import re
from dataclasses import dataclass

from rwp_dist.base.errors import ConfigError
from rwp_dist.plan.model import Fabric, Link


@dataclass(frozen=True)
class Gpu:
    """A GPU as clouds lend it."""

    cuda_name: str
    """Key of its peak in ``rwp_dist.run.flops.PEAK_TFLOPS``."""
    memory_bytes: float
    memory_bytes_per_s: float
    link_bytes_per_s: float
    """To the other GPUs of its node, in each direction."""
    nvlink: bool
    """Whether that is NVLink; otherwise PCI Express."""
    per_node: int = 8


GPUS = {
    "a100": Gpu("A100-SXM4-80GB", 80e9, 2.039e12, 300e9, nvlink=True),
    "h100": Gpu("H100 80GB HBM3", 80e9, 3.35e12, 450e9, nvlink=True),
    "h200": Gpu("H200", 141e9, 4.8e12, 450e9, nvlink=True),
    "l40s": Gpu("L40S", 48e9, 864e9, 32e9, nvlink=False),
    "a10g": Gpu("A10G", 24e9, 600e9, 32e9, nvlink=False),
    "l4": Gpu("L4", 24e9, 300e9, 32e9, nvlink=False),
}
"""NVIDIA's data sheets: "A100 80GB" (2021), "H100 Tensor Core GPU" (SXM5, 2023), "H200" (2023),
"L40S" (2023), "A10" and AWS's G5 (2021), "L4" (2023). They state links in both directions together;
PCI Express 4.0 x16 has 64 GB/s. Nodes of eight: DGX and HGX; AWS g6e.48xlarge, g5.48xlarge and
g6.48xlarge."""

FLOPS_PER_MEMORY_BYTE = 24.0
"""Floating-point operations of a network that a GPU does in the time of one byte of its memory.

Measured on one H200 under DDP (docs/performance.md): ResNet-50 4,579 images/s of 24.3 GFLOP,
ViT-S/16 4,626 of 27.5; over 4.8 TB/s that is 23.2 and 26.5. Its memory bounds both, so another GPU
is taken to reach what its own memory allows. ``--mfu`` replaces it."""

HOST_S_PER_CALL = 30e-6
"""Of the host, to start an operation from Python: its module, autocast and the launch. Assumed, not
measured: then a pass of ResNet-50, 458 operations, takes 14 ms however few its images are."""

DEEPSPEED_S = {0: 4.3e-3, 1: 9.0e-3, 2: 9.0e-3, 3: 9.0e-3}
"""What DeepSpeed adds to an update by its stage, mostly waits of the host. Measured on one H200
(docs/performance.md): means of ResNet-50 and ViT-S/16, stages 0 and 1 against DDP."""

ASCENT_COPIES, NOISE_COPIES = 8, 4
"""How often a perturbed pass reads or writes all weights. SAM's takes the norm of a gradient,
scales it, adds the weights and writes the sum. Noise is drawn in registers while the weights are
read and written, at half of the bandwidth of a copy (docs/performance.md)."""

LINK_SHARE = 0.8
"""Of a data sheet's bandwidth that NCCL reaches: "protocol overhead (~20%)", 370 of 450 GB/s on
H100, says its author (github.com/NVIDIA/nccl-tests/issues/212). Taken for networks, too."""

START_S = 8.4e-6
NVLINK_S, NVLINK_TREE_S = 3.4e-6, 4.0e-6
PCI_S, PCI_TREE_S = 5.7e-6, 6.0e-6
NETWORK_S, NETWORK_TREE_S = 14e-6, 14e-6
"""Latencies of NCCL's own model of rings and trees, protocol Simple: ``baseLat`` and ``hwLat`` in
its ``src/graph/tuning.cc``."""

SPREAD = 0.015
"""Standard deviation of the speed of GPUs, as a share of it. Assumed from a range of 8 % on average
within clusters of one kind of GPU (Sinha et al., arXiv 2208.11035), taken for five deviations."""

CHECKPOINT_BYTES_PER_S = 1e9
"""To a disk that nodes share. Assumed: a file server behind 10 Gbit/s."""

DDP_FIRST_BUCKET_BYTES, DDP_BUCKET_BYTES = 2**20, 25 * 2**20
"""torch's DistributedDataParallel (``bucket_cap_mb`` and ``kDefaultFirstBucketBytes``)."""

UNITS = {"gbit": 1e9, "mbit": 1e6, "tbit": 1e12}


def gpu_of(name: str) -> Gpu:
    """A GPU by its name.

    Raises:
        ConfigError: it is not in the table.
    """
    if name.lower() not in GPUS:
        raise ConfigError(
            f"{name!r} is not in the table of GPUs",
            key="--gpu",
            cure=f"choose from {', '.join(GPUS)}",
        )
    return GPUS[name.lower()]


def rate_of(text: str) -> float:
    """Bytes per second of ``400Gbit``.

    Raises:
        ConfigError: it is no such rate.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([tgm]bit)(?:/s)?", text.strip().lower())
    if found is None or not float(found[1]):
        raise ConfigError(
            f"{text!r} is no rate of a network", key="--link", cure="write it as 400Gbit"
        )
    return float(found[1]) * UNITS[found[2]] / 8


def fabric_of(gpu: Gpu, node_bytes_per_s: float) -> Fabric:
    """Nodes of such GPUs.

    Args:
        gpu: all of them.
        node_bytes_per_s: what a node can send to others, over all of its adapters.
    """
    latency, tree = (NVLINK_S, NVLINK_TREE_S) if gpu.nvlink else (PCI_S, PCI_TREE_S)
    return Fabric(
        gpu.per_node,
        Link(LINK_SHARE * gpu.link_bytes_per_s, latency, tree),
        Link(LINK_SHARE * node_bytes_per_s, NETWORK_S, NETWORK_TREE_S),
        START_S,
    )
