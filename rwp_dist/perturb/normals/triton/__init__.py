"""The same noise on a GPU, by Triton kernels. Importing this package needs Triton."""

from rwp_dist.perturb.normals.triton.fused import FusedEnergy, FusedNoise

__all__ = ["FusedEnergy", "FusedNoise"]
