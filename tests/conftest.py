import os

# Before torch is imported anywhere: tests share few cores, and DeepSpeed must not look for GPUs.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["DS_ACCELERATOR"] = "cpu"

import ranks
import torch

torch.set_num_threads(1)


def pytest_configure(config):
    ranks.start_server()
