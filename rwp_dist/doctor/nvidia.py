"""What NVIDIA's driver says of this machine's GPUs, through nvidia-smi: no torch, no context."""

import csv
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_S = 30.0
"""Without persistence mode the driver starts every GPU anew; only a sick one takes longer."""

_BASIC = ("index", "uuid", "name", "memory.total", "memory.used", "driver_version")

HEALTH = (
    "ecc.errors.uncorrected.volatile.total",
    "retired_pages.pending",
    "remapped_rows.pending",
    "remapped_rows.failure",
    "temperature.gpu",
)
"""Asked one by one: a driver refuses a whole query for one field that it does not know."""


@dataclass(frozen=True)
class Gpu:
    """One GPU as the driver sees it."""

    index: int
    uuid: str
    name: str
    memory_bytes: int
    used_bytes: int
    driver: str


@dataclass(frozen=True)
class Nvidia:
    """All GPUs of this machine, or why the driver does not say."""

    gpus: tuple[Gpu, ...] = ()
    trouble: str = ""
    """Why the driver does not answer although it is there."""

    @classmethod
    def ask(cls) -> "Nvidia":
        """Nothing at all on a machine that has no such driver."""
        if shutil.which("nvidia-smi") is None:
            there = num_in_kernel()
            return cls((), f"{there} GPUs are there, but no nvidia-smi to ask" if there else "")
        try:
            return cls(tuple(_gpu(row) for row in query(_BASIC)))
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            return cls((), why(error))

    @property
    def visible(self) -> tuple[Gpu, ...]:
        """Those that ``CUDA_VISIBLE_DEVICES`` leaves."""
        told = os.environ.get("CUDA_VISIBLE_DEVICES")
        if told is None:
            return self.gpus
        chosen = []
        for word in (w.strip() for w in told.split(",")):
            found = [
                gpu
                for gpu in self.gpus
                if word == str(gpu.index) or (word.startswith("GPU-") and gpu.uuid.startswith(word))
            ]
            if not found:
                break  # as CUDA does: what follows one that is not there is not seen
            chosen += found
        return tuple(chosen)


def query(fields: tuple[str, ...]) -> list[list[str]]:
    """One row of values for each GPU.

    Raises:
        OSError, subprocess.SubprocessError: the driver does not answer.
    """
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True, errors="replace"
    )
    return [[cell.strip() for cell in row] for row in csv.reader(done.stdout.splitlines()) if row]


def num_in_kernel() -> int:
    """GPUs that the kernel's NVIDIA driver holds."""
    folder = Path("/proc/driver/nvidia/gpus")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def why(error: Exception) -> str:
    """One line of what went wrong with nvidia-smi."""
    if isinstance(error, subprocess.TimeoutExpired):
        return f"nvidia-smi did not answer within {TIMEOUT_S:.0f} s"
    if isinstance(error, subprocess.CalledProcessError):
        text = " ".join((error.stdout + " " + error.stderr).split())
        return f"nvidia-smi failed ({text[:200].rstrip('.') or error.returncode})"
    return f"nvidia-smi cannot be understood ({error})"


def _gpu(row: list[str]) -> Gpu:
    index, uuid, name, total, used, driver = row
    mib = 1 << 20
    number = [int(float(text)) * mib if text[:1].isdigit() else 0 for text in (total, used)]
    return Gpu(int(index), uuid, name, number[0], number[1], driver)
