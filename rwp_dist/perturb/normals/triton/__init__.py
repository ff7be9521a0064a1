"""The same noise on a GPU, by Triton kernels. Importing the other files needs Triton."""
