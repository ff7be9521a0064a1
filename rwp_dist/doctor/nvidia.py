"""What NVIDIA's driver says of this machine's GPUs, through nvidia-smi."""

import os
import shutil
import subprocess
from dataclasses import dataclass

TIMEOUT_S = 30.0
"""Without persistence mode the driver starts every GPU anew; only a sick one takes longer."""

HEALTH = (
    "ecc.errors.uncorrected.volatile.total",
    "retired_pages.pending",
    "remapped_rows.pending",
    "remapped_rows.failure",
    "temperature.gpu",
)


@dataclass(frozen=True)
class Driver:
    """The driver's answer."""

    num_gpus: int = 0
    """GPUs of the machine."""
    version: str | None = None
    """None: it gave no answer."""
    trouble: str = ""
    """Why it gave no answer although it is installed."""

    @classmethod
    def ask(cls) -> "Driver":
        """Ask nvidia-smi; a machine without it has neither GPUs nor trouble."""
        if shutil.which("nvidia-smi") is None:
            return cls()
        try:
            rows = _query("driver_version")
        except subprocess.TimeoutExpired:
            return cls(trouble=f"nvidia-smi did not answer within {TIMEOUT_S:.0f} s")
        except subprocess.CalledProcessError as error:
            text = " ".join((error.stdout + " " + error.stderr).split())
            reason = text[:200].rstrip(".") or f"code {error.returncode}"
            return cls(trouble=f"nvidia-smi failed: {reason}")
        return cls(len(rows), rows[0][1] if rows else None)

    @property
    def num_visible(self) -> int:
        """GPUs of the machine that ``CUDA_VISIBLE_DEVICES`` leaves."""
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        if named is None:
            return self.num_gpus
        return min(self.num_gpus, len([word for word in named.split(",") if word.strip()]))


def ask_health() -> dict[str, dict[str, str]]:
    """The fields of ``HEALTH`` that the driver knows, by the GPU's UUID (without ``GPU-``).

    Raises:
        OSError, subprocess.TimeoutExpired: the driver does not answer.
    """
    reports: dict[str, dict[str, str]] = {}
    for field in HEALTH:  # one by one: for an unknown field the driver refuses the whole query
        try:
            rows = _query(field)
        except subprocess.CalledProcessError:
            continue
        for uuid, value in rows:
            reports.setdefault(uuid.removeprefix("GPU-"), {})[field] = value
    return reports


def _query(field: str) -> list[list[str]]:
    """UUID and value for each GPU."""
    command = ["nvidia-smi", f"--query-gpu=uuid,{field}", "--format=csv,noheader,nounits"]
    done = subprocess.run(
        command,
        capture_output=True,
        timeout=TIMEOUT_S,
        check=True,
        encoding="utf-8",
        errors="replace",
    )
    return [line.split(", ", 1) for line in done.stdout.splitlines() if ", " in line]
