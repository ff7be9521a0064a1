"""GPUs: all that should be here are, each computes, and none reports damage."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator

from rwp_dist.doctor.case import Case
from rwp_dist.doctor.finding import Finding
from rwp_dist.doctor.nvidia import HEALTH, num_in_kernel, query, why
from rwp_dist.tracking.console import size

GROUP = "gpus"

PROBE_S = 90.0
"""How long the GPUs may take for a product of two small matrices each, torch's import included."""

HOT_CELSIUS = 88

DESKTOP_BYTES = 2e9
"""What a GPU that shows a person's desktop may hold."""

PROBE = """
import json, sys
import torch
found = {"seen": 0, "cuda": torch.version.cuda or torch.version.hip, "wrong": {}}
try:
    torch.cuda.init()
    found["seen"] = torch.cuda.device_count()
except Exception as error:
    found["error"] = str(error)
for index in range(found["seen"]):
    try:
        ones = torch.ones(512, 512, device=f"cuda:{index}")
        if not bool(((ones @ ones) == 512).all()):
            found["wrong"][index] = "computes a wrong product"
    except Exception as error:
        found["wrong"][index] = str(error).partition("\\n")[0]
print(json.dumps(found))
"""
"""In a process of its own: a context would cost memory here, and a sick GPU may hang."""


def present(case: Case) -> Iterator[Finding]:
    """As many GPUs as the scheduler and the settings count on."""
    gpus, wanted = case.gpus, _wanted()
    device = case.settings.run.device if case.settings else "auto"
    if case.nvidia.trouble:
        needed = device == "cuda" or wanted or num_in_kernel()
        yield Finding(
            GROUP,
            "driver",
            "problem" if needed else "warning",
            case.nvidia.trouble + ("" if needed else "; ranks will compute on the CPU"),
            "Reload NVIDIA's driver or restart this machine; in a container, start it with --gpus.",
        )
        return
    seen = _names([gpu.name for gpu in gpus])
    if gpus:
        seen += f", driver {gpus[0].driver}"
    figures = {"gpus": len(gpus)}
    if wanted > len(gpus):
        yield Finding(
            GROUP,
            "present",
            "problem",
            f"{seen}, but the job has {wanted}",
            "Leave this node out (sbatch --exclude) and tell its administrator.",
            figures,
        )
    elif not gpus and device == "cuda":
        yield Finding(
            GROUP,
            "present",
            "problem",
            "none, but run.device is cuda",
            "Set run.device to cpu, or start on a machine with an NVIDIA GPU and its driver.",
            figures,
        )
    else:
        yield Finding(
            GROUP, "present", "ok", seen if gpus else "none: ranks compute on the CPU", "", figures
        )


def health(case: Case) -> Iterator[Finding]:
    """What the driver counts of damage: memory errors, rows to be replaced, heat."""
    if not case.gpus:
        return
    ours = {gpu.index for gpu in case.gpus}
    reports = {field: _column(field) for field in HEALTH}
    damaged = 0
    for place, gpu in enumerate(case.nvidia.gpus):
        if gpu.index not in ours:
            continue
        values = {field: column[place] for field, column in reports.items() if place < len(column)}
        errors = _number(values.get("ecc.errors.uncorrected.volatile.total"))
        broken = _says_yes(values.get("remapped_rows.failure"))
        pending = [f for f in HEALTH if f.endswith("pending") and _says_yes(values.get(f))]
        if errors or broken or pending:
            damaged += 1
            text = [f"{errors} uncorrected memory errors since the driver was loaded"] * bool(
                errors
            )
            text += ["memory rows that could not be replaced"] * broken
            text += ["damaged memory that waits for a reset to be replaced"] * bool(pending)
            yield Finding(
                GROUP,
                f"memory of GPU {gpu.index}",
                "problem" if errors or broken else "warning",
                f"{gpu.name}: {', '.join(text)}",
                "Reset the GPU (nvidia-smi --gpu-reset) or restart the node; replace the GPU if it "
                "comes back."
                if not broken
                else "Leave this node out and have the GPU replaced.",
            )
        heat = _number(values.get("temperature.gpu"))
        if heat >= HOT_CELSIUS:
            yield Finding(
                GROUP,
                f"heat of GPU {gpu.index}",
                "warning",
                f"{heat} degrees Celsius",
                "Look at the machine's fans and air: a hot GPU slows down, and with it every rank.",
            )
    if not damaged:
        yield Finding(GROUP, "memory errors", "ok", "none reported")


def compute(case: Case) -> Iterator[Finding]:
    """A product of two matrices on each, in a process of its own."""
    if not case.gpus:
        return
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBE],
            capture_output=True,
            text=True,
            timeout=PROBE_S,
            check=True,
        )
        found = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        yield Finding(
            GROUP,
            "compute",
            "problem",
            f"torch did not finish a small product on every GPU within {PROBE_S:.0f} s",
            "Look for Xid errors in the kernel's log (dmesg); restart the node.",
        )
        return
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no message"])[-1]
        yield Finding(
            GROUP,
            "compute",
            "problem",
            f"torch fails here ({last[:200]})",
            "Install this project's requirements again: pip install -e .",
        )
        return
    if not found["cuda"]:
        yield Finding(
            GROUP,
            "compute",
            "problem",
            "this torch was built without CUDA",
            "Install torch's CUDA build (pip install torch, from PyPI on Linux).",
        )
        return
    if found["seen"] < len(case.gpus):
        told = found.get("error", "").rstrip(".")
        reason = f" ({told})" if told else ""
        yield Finding(
            GROUP,
            "compute",
            "problem",
            f"torch for CUDA {found['cuda']} sees {found['seen']} of {len(case.gpus)} GPUs"
            f"{reason[:300]}",
            f"Install a driver that knows CUDA {found['cuda']}, or a torch for the driver's CUDA "
            "(pytorch.org/get-started).",
        )
    for index, text in found["wrong"].items():
        yield Finding(
            GROUP,
            f"compute on GPU {index}",
            "problem",
            text,
            "Look for Xid errors in the kernel's log (dmesg); reset the GPU, or leave the node "
            "out.",
        )
    if found["seen"] >= len(case.gpus) and not found["wrong"]:
        yield Finding(
            GROUP,
            "compute",
            "ok",
            f"each multiplies matrices rightly, with CUDA {found['cuda']}",
        )


def in_use(case: Case) -> Iterator[Finding]:
    """Memory that something else holds before the ranks start."""
    for gpu in case.gpus:
        if gpu.memory_bytes and gpu.used_bytes > max(0.1 * gpu.memory_bytes, DESKTOP_BYTES):
            yield Finding(
                GROUP,
                f"GPU {gpu.index} is in use",
                "warning",
                f"{size(gpu.used_bytes)} of {size(gpu.memory_bytes)} are taken",
                "End what holds it (nvidia-smi shows the processes), or choose other GPUs by "
                "CUDA_VISIBLE_DEVICES.",
            )


def _wanted() -> int:
    """GPUs that Slurm gave to the job on this node; 0: unknown."""
    told = os.environ.get("SLURM_GPUS_ON_NODE", "")
    return int(told) if told.isdigit() else 0


def _names(names: list[str]) -> str:
    """``4 x NVIDIA A100``."""
    kinds = dict.fromkeys(names)
    return ", ".join(f"{names.count(kind)} x {kind}" for kind in kinds) or "0 GPUs"


def _column(field: str) -> list[str]:
    """A field of every GPU; nothing where the driver does not know it."""
    try:
        return [row[0] for row in query((field,))]
    except subprocess.CalledProcessError:
        return []
    except (OSError, subprocess.SubprocessError) as error:
        raise RuntimeError(why(error)) from error


def _number(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 0


def _says_yes(text: str | None) -> bool:
    return bool(text) and str(text).lower() in ("yes", "1")
