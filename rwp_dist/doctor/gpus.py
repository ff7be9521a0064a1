"""GPUs: all that should be here are, each computes, and none reports damage."""

import os
from collections.abc import Iterator

from rwp_dist.base.text import size
from rwp_dist.doctor import nvidia
from rwp_dist.doctor.finding import Check, Finding, ok, problem, warning
from rwp_dist.doctor.machine import Machine
from rwp_dist.doctor.probe import PROBE_S

HOT_CELSIUS = 88

DESKTOP_BYTES = 2e9
"""What a GPU that shows a person's desktop may hold."""

RESET = "reset the GPU (nvidia-smi --gpu-reset) or restart the node; replace it if this comes back"
LOOK_FOR_XID = "look for Xid errors in the kernel's log (dmesg); restart the node or leave it out"


def present(machine: Machine) -> Iterator[Finding]:
    """There are as many GPUs as the scheduler and the settings count on."""
    gpus, driver, probe = machine.gpus, machine.driver, machine.probe
    trouble = driver.trouble or (probe.trouble if probe and not driver.num_gpus else "")
    told = os.environ.get("SLURM_GPUS_ON_NODE", "")
    in_job = int(told) if told.isdigit() else 0
    cuda = machine.settings is not None and machine.settings.run.device == "cuda"
    kinds = [gpu.name for gpu in gpus]
    seen = ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds)) or "none"
    why = f" ({trouble})" if trouble else ""
    if in_job > len(gpus):
        cure = "leave this node out (sbatch --exclude) and tell its administrator"
        yield problem("present", f"{seen}, but the job has {in_job}{why}", cure, gpus=len(gpus))
    elif cuda and not gpus:
        cure = (
            "set run.device to cpu, or start on a machine with an NVIDIA GPU and its driver; start "
            "a container with --gpus"
        )
        yield problem("present", f"none, but run.device is cuda{why}", cure, gpus=0)
    elif trouble and not gpus:
        cure = "reload NVIDIA's driver or restart this machine; start a container with --gpus"
        yield warning("present", f"{trouble}; ranks will compute on the CPU", cure, gpus=0)
    elif gpus:
        yield ok("present", f"{seen}, driver {driver.version or 'unknown'}", gpus=len(gpus))
    else:
        yield ok("present", "none: ranks compute on the CPU", gpus=0)


def compute(machine: Machine) -> Iterator[Finding]:
    """torch sees all GPUs that the driver has, and each multiplies two matrices rightly."""
    probe, expected = machine.probe, machine.driver.num_visible
    if probe is None or not (expected or probe.gpus or probe.failed):
        return
    if probe.failed:
        yield problem("compute", f"torch fails here ({probe.trouble})", LOOK_FOR_XID)
    elif probe.cuda is None:
        cure = "install torch's CUDA build (python -m pip install torch, from PyPI on Linux)"
        yield problem("compute", "this torch was built without CUDA", cure)
    elif len(probe.gpus) < expected:
        why = f" ({probe.trouble})" if probe.trouble else ""
        yield problem(
            "compute",
            f"torch for CUDA {probe.cuda} sees {len(probe.gpus)} of {expected} GPUs{why}",
            f"install a driver that knows CUDA {probe.cuda}, or a torch for the driver's CUDA "
            "(pytorch.org/get-started)",
        )
    else:
        wrong = [(number, gpu.wrong) for number, gpu in enumerate(probe.gpus) if gpu.wrong]
        for number, text in wrong:
            yield problem(f"compute on GPU {number}", text, LOOK_FOR_XID)
        if not wrong:
            yield ok("compute", f"each multiplies matrices rightly, with CUDA {probe.cuda}")


def in_use(machine: Machine) -> Iterator[Finding]:
    """Memory that something else holds before the ranks start."""
    for number, gpu in enumerate(machine.gpus):
        used = gpu.memory_bytes - gpu.free_bytes
        if used > max(0.1 * gpu.memory_bytes, DESKTOP_BYTES):
            seen = f"{size(used)} of {size(gpu.memory_bytes)} are taken"
            cure = (
                "end what holds it (nvidia-smi shows the processes), or choose other GPUs by "
                "CUDA_VISIBLE_DEVICES"
            )
            yield warning(f"GPU {number} is in use", seen, cure)


def health(machine: Machine) -> Iterator[Finding]:
    """What the driver counts of damage: memory errors, rows to be replaced, heat."""
    if not machine.gpus or machine.driver.version is None:
        return
    reports = nvidia.ask_health()
    damaged = False
    for number, gpu in enumerate(machine.gpus):
        report = reports.get(gpu.uuid, {})
        damage = _memory_damage(f"memory of GPU {number}", report)
        if damage is not None:
            damaged = True
            yield damage
        heat = report.get("temperature.gpu", "")
        if heat.isdigit() and int(heat) >= HOT_CELSIUS:
            cure = "look at the fans and the air: a hot GPU slows down, and with it every rank"
            yield warning(f"heat of GPU {number}", f"{heat} degrees Celsius", cure)
    if not damaged:
        yield ok("memory errors", "none reported")


def _memory_damage(name: str, report: dict[str, str]) -> Finding | None:
    yes = {field for field, value in report.items() if value.lower() in ("yes", "1")}
    errors = report.get("ecc.errors.uncorrected.volatile.total", "")
    if "remapped_rows.failure" in yes:
        cure = "leave this node out and have the GPU replaced"
        return problem(name, "rows that could not be replaced", cure)
    if errors.isdigit() and int(errors):
        seen = f"{errors} uncorrected memory errors since the driver was loaded"
        return problem(name, seen, RESET)
    if yes & {"retired_pages.pending", "remapped_rows.pending"}:
        return warning(name, "damaged rows that only a reset replaces", RESET)
    return None


CHECKS = (
    Check("gpus", "present", present, PROBE_S + 40),
    Check("gpus", "compute", compute),
    Check("gpus", "in use", in_use),
    Check("gpus", "memory errors", health, 180.0),
)
