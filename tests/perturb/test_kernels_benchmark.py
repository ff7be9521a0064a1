"""benchmarks/kernels.py is ready for the day that there is a GPU."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kernels.py"
# What a machine may lack that was only lent: of what is installed here, the script may use these.
BARE = """
import importlib.util, runpy, sys
for name in ("click", "matplotlib", "pydantic", "scipy", "sklearn", "torchvision", "wandb", "yaml"):
    assert importlib.util.find_spec(name), name
    sys.modules[name] = None
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_script(*arguments):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    environment["PYTHONPATH"] = str(SCRIPT.parents[1])
    del environment["TRITON_INTERPRET"]
    return subprocess.run(
        [sys.executable, "-c", BARE, SCRIPT, *arguments],
        env=environment,
        capture_output=True,
        text=True,
    )


def test_without_a_gpu_it_says_so_in_one_sentence_and_fails():
    done = run_script()
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == "There is no CUDA device here, and these are its timings.\n"


def test_interpreted_it_runs_to_its_end_on_torch_triton_and_numpy_alone():
    done = run_script("--interpret")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert sum("noise.backend: triton" in line for line in lines) == 4  # two networks, two types
    assert any("overhead of m-arwp" in line for line in lines)
    assert lines[-1].endswith("these times mean nothing.")
