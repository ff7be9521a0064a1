import os
import subprocess
import sys
from pathlib import Path

# Before torch is imported anywhere: tests share few cores, and DeepSpeed must not look for GPUs.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["DS_ACCELERATOR"] = "cpu"
# Jobs of tests activate this environment: another ninja would compile DeepSpeed's part once more.
os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
os.environ["TRITON_INTERPRET"] = "1"  # kernels run on the CPU

import ranks
import torch

torch.set_num_threads(1)


COMPILE = """
from deepspeed.comm.torch import build_shm_op
from rwp_dist.engine import prefer_own_ninja

prefer_own_ninja()
build_shm_op()
"""


def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        # DeepSpeed compiles its CPU collective at first use, for up to a minute: not within the
        # time-out of the first test that happens to need it.
        subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, check=True)
    ranks.start_server()
