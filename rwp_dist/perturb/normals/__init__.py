"""Standard normal values by key: the same for (seed, step, draw, parameter), in any order.

Triton kernels and the C file give the same values on a GPU and on a CPU;
``PhiloxNormals`` defines them. torch's generator gives others, which differ between devices.
"""

from rwp_dist.perturb.normals.backend import Backend, choose_backend, open_normals
from rwp_dist.perturb.normals.generator import Normals, TorchNormals
from rwp_dist.perturb.normals.philox import PhiloxNormals

__all__ = [
    "Backend",
    "Normals",
    "PhiloxNormals",
    "TorchNormals",
    "choose_backend",
    "open_normals",
]
