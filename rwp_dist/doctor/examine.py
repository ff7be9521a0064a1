"""Which checks are made, and in which order: on this machine, and by all ranks of a job."""

import logging
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from rwp_dist.config import Settings
from rwp_dist.doctor import clock, compiler, disks, gpus, limits, network, software
from rwp_dist.doctor.case import Case, node_name
from rwp_dist.doctor.finding import Finding, Step, findings_of
from rwp_dist.process import torchrun as launched


def examine(settings: Settings | None, *, quick: bool = False) -> Iterator[Finding]:
    """Everything there is to find on this machine, one finding after the other.

    Args:
        settings: of the run that is to start; None: general checks only.
        quick: only what a node needs checked before ranks start: seconds, no network.
    """
    case = Case(settings)
    steps = node_steps(case)
    if quick:
        steps.append(Step(clock.GROUP, "shared disk", partial(clock.against_output, case)))
    else:
        # What libraries say while they are looked at is not what was asked for.
        warnings.simplefilter("ignore")
        for logger in ("DeepSpeed", "torch.utils.cpp_extension"):
            logging.getLogger(logger).setLevel(logging.ERROR)
        alone = launched.world_size() == 1
        steps = [*software_steps(case), *steps, *run_steps(case), *outer_steps(case, alone)]
    name = node_name()
    for step in steps:
        for finding in findings_of(step):
            yield replace(finding, node=name)


def node_steps(case: Case) -> list[Step]:
    """What needs neither torch in this process nor a network: a machine's own health."""
    return [
        Step(gpus.GROUP, "present", partial(gpus.present, case)),
        Step(gpus.GROUP, "memory errors", partial(gpus.health, case)),
        Step(gpus.GROUP, "in use", partial(gpus.in_use, case)),
        Step(gpus.GROUP, "compute", partial(gpus.compute, case), gpus.PROBE_S + 10),
        Step(compiler.GROUP, "C++ compiler", partial(compiler.collective, case)),
        Step(limits.GROUP, "open files", partial(limits.open_files, case)),
        Step(limits.GROUP, "processes", partial(limits.processes, case)),
        Step(limits.GROUP, "locked memory", partial(limits.locked_memory, case)),
        Step(disks.GROUP, "shared memory", partial(disks.shared_memory, case)),
        Step(disks.GROUP, "run directory", partial(disks.output, case)),
        Step(disks.GROUP, "cache", partial(disks.cache, case)),
    ]


def software_steps(case: Case) -> list[Step]:
    """Packages, by their metadata and by importing those that can fail at it."""
    return [
        Step(software.GROUP, "Python", partial(software.python, case)),
        Step(software.GROUP, "packages", partial(software.packages, case)),
        Step(software.GROUP, "torch", partial(software.torch, case), 180.0),
        Step(software.GROUP, "deepspeed", partial(software.deepspeed, case), 180.0),
    ]


def run_steps(case: Case) -> list[Step]:
    """What the settings of a run ask of a machine."""
    if case.settings is None:
        return []
    return [
        Step(disks.GROUP, "room for checkpoints", partial(_checkpoints, case)),
        Step("memory", "estimate", partial(_memory, case)),
        Step("noise", "generator", partial(_noise, case), 90.0),
        Step("data", "training", partial(_training, case), 600.0),
        Step("data", "evaluation", partial(_evaluation, case), 300.0),
    ]


def outer_steps(case: Case, alone: bool) -> list[Step]:
    """What lies outside of this process: W&B, another process, other clocks."""
    return [
        Step("tracking", "W&B", partial(_login, case)),
        *([Step(network.GROUP, "all-reduce", partial(network.two_processes, case), 200.0)] * alone),
        Step(clock.GROUP, "shared disk", partial(clock.against_output, case)),
        Step(clock.GROUP, "shard server", partial(clock.against_servers, case)),
        Step(clock.GROUP, "this machine", partial(clock.kernel, case)),
    ]


# These import torch or W&B, which may be what is broken: as part of the check, not before it.


def _memory(case: Case) -> Iterator[Finding]:
    from rwp_dist.doctor import memory

    yield from memory.fits(case)


def _noise(case: Case) -> Iterator[Finding]:
    from rwp_dist.doctor import noise

    yield from noise.generator(case)


def _checkpoints(case: Case) -> Iterator[Finding]:
    from rwp_dist.doctor import memory

    assert case.settings is not None
    yield disks.checkpoints(case, memory.checkpoint_bytes(case.settings))


def _training(case: Case) -> Iterator[Finding]:
    from rwp_dist.doctor import shards

    yield from shards.reachable(case, case.training, "training")
    yield from shards.speed(case)


def _evaluation(case: Case) -> Iterator[Finding]:
    from rwp_dist.doctor import shards

    yield from shards.reachable(case, case.sources[-1:], "evaluation")


def _login(case: Case) -> Iterator[Finding]:
    from rwp_dist.doctor import login

    yield from login.wandb(case)
