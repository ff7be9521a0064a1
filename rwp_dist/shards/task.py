"""Which part of the shards this process writes."""

import os
import re

from rwp_dist.base.errors import ConfigError


def find_part(option: str | None) -> tuple[int, int]:
    """(k, n): write the shards whose number modulo n is k.

    ``option`` is ``K/N``; without it, tasks that ``srun`` has started share the shards, and any
    other process writes all of them.

    Raises:
        ConfigError: the option is no ``K/N`` with K below N.
    """
    if option is None:
        return _slurm_task()
    match = re.fullmatch(r"(\d+)/(\d+)", option)
    if match is None or int(match[1]) >= int(match[2]):
        raise ConfigError(f"--part: {option!r} is no part; the parts of two are 0/2 and 1/2.")
    return int(match[1]), int(match[2])


def _slurm_task() -> tuple[int, int]:
    # A batch script without srun is told the number of tasks too, but it is alone.
    if "SLURM_JOB_ID" in os.environ and "SLURM_STEP_ID" not in os.environ:
        return 0, 1
    task, count = os.environ.get("SLURM_PROCID"), os.environ.get("SLURM_NTASKS")
    if task is None or count is None:
        return 0, 1
    return int(task), int(count)
