"""What this project claims, on a GPU: right, fast, never waiting; at most 8 minutes.

    python benchmarks/gpu.py                    # all sections
    python benchmarks/gpu.py steps syncs        # some
    python benchmarks/gpu.py --dry              # no GPU: does it run? Its figures mean nothing

Needs torch 2.11 or newer with Triton, this repository on PYTHONPATH, and the development packages
(``make .venv/installed-dev``); what a machine without network lacks travels as wheels
(``gpu_wheels.sh``). Each section is a process of its own, prints its table as it goes, and ends
with its bars; one that fails does not stop the next.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import click
import torch

HERE = Path(__file__).resolve().parent
SECTIONS = {
    "kernels": ("kernels.py", 90),  # right, and as fast as memory
    "steps": ("on_gpu/steps.py", 150),  # training steps of all methods: images/s, MFU, memory
    "syncs": ("on_gpu/syncs.py", 90),  # what makes the host wait for the GPU
    "oracle": ("on_gpu/oracle.py", 90),  # every method at every ZeRO stage against float64
    "replicas": ("on_gpu/replicas.py", 60),  # two ranks on one GPU, resumed runs
    "shards": ("on_gpu/shards.py", 120),  # a real run from JPEG shards
}
"""Their files, and the seconds that each may take."""


def run_section(name: str, dry: bool) -> bool:
    """Whether the section ran and its bars held."""
    print(f"\n== {name} ==", flush=True)
    begin = time.monotonic()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    paths = [str(HERE), str(HERE.parent), str(HERE.parent / "tests")]
    environment["PYTHONPATH"] = os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])
    if dry:
        environment |= {
            "TRITON_INTERPRET": "1",
            "OMP_NUM_THREADS": "1",
            "DS_ACCELERATOR": "cpu",
        }
    file, limit_s = SECTIONS[name]
    if dry:
        limit_s *= 10  # a CPU that others use as well
    command = [sys.executable, str(HERE / file), *(["--dry"] if dry else [])]
    try:
        code = subprocess.run(command, env=environment, timeout=limit_s).returncode
    except subprocess.TimeoutExpired:
        print(f"took longer than {limit_s} s")
        code = 1
    print(f"-- {name}: {'ok' if code == 0 else 'FAILED'}, {time.monotonic() - begin:.0f} s")
    return code == 0


@click.command()
@click.argument("sections", nargs=-1, type=click.Choice(list(SECTIONS)))
@click.option("--dry", is_flag=True, help="On the CPU at tiny sizes: a smoke test.")
def main(sections: tuple[str, ...], dry: bool) -> None:
    """Run the sections, all by default."""
    if not (dry or torch.cuda.is_available()):
        raise click.ClickException("torch sees no GPU here; --dry tries all of this on the CPU.")
    results = {name: run_section(name, dry) for name in sections or SECTIONS}
    failed = [name for name, held in results.items() if not held]
    print(f"\n{', '.join(failed)}: failed, or a bar does not hold" if failed else "\nAll hold.")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
