import os
import signal
import sys
from pathlib import Path

# Before torch is imported anywhere: tests share few cores, and DeepSpeed must not look for GPUs.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["DS_ACCELERATOR"] = "cpu"
# Jobs of tests find this environment's programs.
os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
os.environ["TRITON_INTERPRET"] = "1"  # kernels run on the CPU

import pytest
import torch
from support import ranks
from support.slow import LONG, SLOW

torch.set_num_threads(1)


def pytest_configure(config):
    # nohup leaves a hang-up ignored, and tests hang up.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    runs_tests = hasattr(config, "workerinput") or not config.getoption("numprocesses")
    if runs_tests:
        ranks.start_server()


def pytest_collection_modifyitems(items):
    for item in items:
        name = item.nodeid.removeprefix("tests/")
        if name.startswith(SLOW):
            item.add_marker(pytest.mark.slow)
        if name.startswith(LONG):
            item.add_marker(pytest.mark.long)
