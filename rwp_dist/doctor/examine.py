"""All checks in their order."""

import logging
import warnings
from collections.abc import Iterator

from rwp_dist.config import Settings
from rwp_dist.doctor import disks, gpus, launch, limits, software
from rwp_dist.doctor.finding import Finding, run_check, worst
from rwp_dist.doctor.machine import Machine

NODE_CHECKS = (*gpus.CHECKS, *limits.CHECKS, *disks.CHECKS)
"""A machine's own health: neither torch in this process nor a network is needed."""


def examine(settings: Settings | None, *, quick: bool = False) -> Iterator[Finding]:
    """Run the checks on this machine and yield their findings one after the other.

    Without settings they are general ones, with ``quick`` only those of a machine's own health.
    """
    machine = Machine(settings)
    found: list[Finding] = []
    if not quick:
        # Libraries warn while they are looked at; the report is what was asked for.
        warnings.simplefilter("ignore")
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        for check in launch.CHECKS:
            yield from run_check(check, machine)
        for check in software.CHECKS:
            found += run_check(check, machine)
        yield from found
    for check in NODE_CHECKS:
        yield from run_check(check, machine)
    if settings is None or quick or worst(found) == "problem":
        return  # a run's modules cannot be imported: nothing more can be known
    from rwp_dist.doctor import run  # imports torch

    for check in run.CHECKS:
        yield from run_check(check, machine)
