"""What torch sees of this machine's GPUs, asked in a process of its own.

A CUDA context would cost this process memory on each GPU, and a sick GPU may hang it. Run as a
program, this file prints what it found as JSON.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PROBE_S = 90.0
"""How long the GPUs may take for a product of two small matrices each, torch's import included."""

DEVICES = (Path("/dev/nvidiactl"), Path("/dev/kfd"))
"""Where the drivers of NVIDIA and AMD are reached."""


@dataclass(frozen=True)
class Gpu:
    """One GPU that this process may use; its place in the list is torch's index."""

    name: str
    uuid: str
    """As the driver has it, without ``GPU-``."""
    memory_bytes: int
    free_bytes: int
    wrong: str = ""
    """Why it did not multiply two matrices rightly; empty if it did."""


@dataclass(frozen=True)
class Probe:
    """What torch found."""

    cuda: str | None = None
    """CUDA (or ROCm) version that torch was built for; None: for none."""
    gpus: tuple[Gpu, ...] = ()
    trouble: str = ""
    """What torch or its process says."""
    failed: bool = False
    """The process did not come to an end, or not to a good one."""

    @classmethod
    def ask(cls) -> "Probe | None":
        """Ask torch in another process; None on a machine that has no driver for GPUs."""
        if shutil.which("nvidia-smi") is None and not any(path.exists() for path in DEVICES):
            return None
        command = [sys.executable, "-m", "rwp_dist.doctor.probe"]
        try:
            done = subprocess.run(
                command, capture_output=True, timeout=PROBE_S, encoding="utf-8", errors="replace"
            )
        except subprocess.TimeoutExpired:
            return cls(trouble=f"no answer within {PROBE_S:.0f} s", failed=True)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            return cls(trouble=last[:200], failed=True)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        gpus = tuple(Gpu(**gpu) for gpu in found.pop("gpus"))
        return cls(gpus=gpus, **found)


def look() -> Probe:
    """Let every GPU multiply two matrices; this imports torch and makes contexts."""
    import torch

    cuda = torch.version.cuda or torch.version.hip
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:  # the latter: not compiled with CUDA
        return Probe(cuda, trouble=" ".join(str(error).split())[:300].rstrip("."))
    gpus = []
    for number in range(torch.cuda.device_count()):
        properties, wrong, free = torch.cuda.get_device_properties(number), "", 0
        try:
            free = torch.cuda.mem_get_info(number)[0]
            ones = torch.ones(512, 512, device=f"cuda:{number}")
            if not bool(((ones @ ones) == 512).all()):
                wrong = "computes a wrong product"
        except RuntimeError as error:
            wrong = str(error).partition("\n")[0]
        memory = properties.total_memory
        gpus.append(Gpu(properties.name, str(properties.uuid), memory, free, wrong))
    return Probe(cuda, tuple(gpus))


if __name__ == "__main__":
    print(json.dumps(asdict(look())))
