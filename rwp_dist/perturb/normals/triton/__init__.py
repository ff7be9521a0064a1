"""The same noise on a GPU, by Triton kernels."""
