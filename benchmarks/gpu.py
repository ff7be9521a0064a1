"""What this project claims, on a GPU: right, fast, never waiting; at most 8 minutes.

    python benchmarks/gpu.py                    # all sections
    python benchmarks/gpu.py steps syncs        # some
    python benchmarks/gpu.py --dry              # no GPU: does it run? Its figures mean nothing

Needs torch 2.11 or newer with Triton, this repository on PYTHONPATH, and the development packages
(``make .venv/installed-dev``); what a machine without network lacks travels as wheels
(``gpu_wheels.sh``). Each section is a process of its own, prints its table as it goes, and ends
with its bars; one that fails does not stop the next. After eight minutes no section goes on.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import click
import torch

HERE = Path(__file__).resolve().parent
SECTIONS = {
    "kernels": ("kernels.py", 90),  # right, and as fast as memory
    "steps": ("on_gpu/steps.py", 150),  # training steps of all methods: images/s, MFU, memory
    "syncs": ("on_gpu/syncs.py", 90),  # what makes the host wait for the GPU
    "streams": ("on_gpu/streams.py", 60),  # noise drawn beside the step, in the profiler's trace
    "oracle": ("on_gpu/oracle.py", 90),  # every method on every engine against float64
    "replicas": ("on_gpu/replicas.py", 60),  # two ranks on one GPU, resumed runs
    "shards": ("on_gpu/shards.py", 120),  # a real run from JPEG shards
}
"""Their files, and the seconds that each may take."""
ALL_S = 480
"""Seconds that all of them may take together."""


def run_section(name: str, dry: bool, left_s: float) -> bool:
    """Whether the section ran within the time that is left, and its bars held."""
    print(f"\n== {name} ==", flush=True)
    begin = time.monotonic()
    # The profiler's library would write of its own beginnings and ends between the tables.
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "KINETO_LOG_LEVEL": "99"}
    paths = [str(HERE), str(HERE.parent), str(HERE.parent / "tests")]
    environment["PYTHONPATH"] = os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])
    if dry:
        environment |= {
            "TRITON_INTERPRET": "1",
            "OMP_NUM_THREADS": "1",
            "DS_ACCELERATOR": "cpu",
        }
    file, own_s = SECTIONS[name]
    limit_s = own_s * 10 if dry else min(own_s, left_s)  # dry: a CPU that others use as well
    if limit_s <= 0:
        print(f"-- {name}: FAILED, the sections before took all of the {ALL_S} s")
        return False
    command = [sys.executable, str(HERE / file), *(["--dry"] if dry else [])]
    # In a session of its own, so that the ranks that it starts can be ended with it.
    section = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        code = section.wait(limit_s)
    except subprocess.TimeoutExpired:
        print(f"took longer than {limit_s:.0f} s")
        code = 1
    finally:
        with suppress(ProcessLookupError):
            os.killpg(section.pid, signal.SIGKILL)
    print(f"-- {name}: {'ok' if code == 0 else 'FAILED'}, {time.monotonic() - begin:.0f} s")
    return code == 0


@click.command()
@click.argument("sections", nargs=-1, type=click.Choice(list(SECTIONS)))
@click.option("--dry", is_flag=True, help="On the CPU at tiny sizes: a smoke test.")
def main(sections: tuple[str, ...], dry: bool) -> None:
    """Run the sections, all by default."""
    if not (dry or torch.cuda.is_available()):
        raise click.ClickException("torch sees no GPU here; --dry tries all of this on the CPU.")
    end = time.monotonic() + ALL_S
    results = {
        name: run_section(name, dry, max(end - time.monotonic(), 0.0))
        for name in sections or SECTIONS
    }
    failed = [name for name, held in results.items() if not held]
    print(f"\n{', '.join(failed)}: failed, or a bar does not hold" if failed else "\nAll hold.")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
