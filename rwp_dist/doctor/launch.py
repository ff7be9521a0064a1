"""How a run would be started from here: what launchers have set, and the nodes of a Slurm job."""

import os
import re
from collections import Counter
from collections.abc import Iterator

from rwp_dist.base.errors import ConfigError
from rwp_dist.doctor.finding import Check, Finding, from_error, ok, warning
from rwp_dist.doctor.machine import Machine
from rwp_dist.process import launchers, torchrun


def variables(machine: Machine) -> Iterator[Finding]:
    """Variables that make a process one of several ranks are meant for this one, and complete."""
    found: list[Finding] = []
    try:
        launchers.check_ranks()
    except ConfigError as error:
        found.append(from_error("variables", error))
    try:
        launchers.check_tasks()
    except ConfigError as error:  # each task may examine its own node
        seen = f"{error.key}: {error.problem}"
        found.append(warning("variables", seen, error.cure or ""))
    found += [warning("variables", text, "unset it") for text in launchers.leftovers()]
    size = torchrun.world_size()
    if size > 1 and all(torchrun.number(name) is None for name in torchrun.LOCAL_RANKS):
        seen = (
            f"LOCAL_RANK is not set: {torchrun.ranks_here()} of {size} ranks are taken to be here"
        )
        cure = "set LOCAL_RANK and LOCAL_WORLD_SIZE, as torchrun does, if that is wrong"
        found.append(warning("variables", seen, cure))
    yield from found
    if not found:
        yield ok("variables", f"this is one of {size} ranks" if size > 1 else "none of other runs")


def nodes(machine: Machine) -> Iterator[Finding]:
    """The nodes of the Slurm job have equally many cores."""
    told = os.environ.get("SLURM_JOB_CPUS_PER_NODE", "")
    cores = Counter[int]()
    for number, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", told):
        cores[int(number)] += int(times or 1)
    if len(cores) > 1:
        seen = ", ".join(f"{count} with {number} cores" for number, count in cores.items())
        cure = (
            "ask for equal ones (sbatch --constraint, --exclude): each rank uses the cores of its "
            "own node, and all wait for the slowest"
        )
        yield warning("nodes", f"they are not equal: {seen}", cure)


CHECKS = (Check("launch", "variables", variables), Check("launch", "nodes", nodes))
