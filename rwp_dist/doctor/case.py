"""What is examined: the settings, and this machine as far as checks share knowledge of it."""

import os
import socket
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rwp_dist.config import Settings
from rwp_dist.data.remote.openers import local_path
from rwp_dist.doctor.nvidia import Gpu, Nvidia
from rwp_dist.process import torchrun as launched


@dataclass(frozen=True)
class Case:
    """One machine and, perhaps, one run that is to start on it."""

    settings: Settings | None = None
    """None: nothing is known of a run."""

    @cached_property
    def nvidia(self) -> Nvidia:
        """The driver's answer; asked once."""
        return Nvidia.ask()

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """GPUs that this process may use."""
        return self.nvidia.visible

    @property
    def on_gpus(self) -> bool:
        """Whether ranks will compute on GPUs here."""
        device = self.settings.run.device if self.settings else "auto"
        return device == "cuda" or (device == "auto" and bool(self.gpus))

    @property
    def ranks_here(self) -> int:
        """Ranks of this machine: those there are, or else one for each GPU."""
        told = os.environ.get("LOCAL_WORLD_SIZE", "")
        if told.isdigit():
            return int(told)
        return max(len(self.gpus), 1) if self.on_gpus else 1

    @property
    def world_size(self) -> int:
        """Ranks of the run: those there are, or else as many on each node of the Slurm job."""
        if launched.by_torchrun():
            return launched.world_size()
        nodes = os.environ.get("SLURM_JOB_NUM_NODES", "1")
        return self.ranks_here * (int(nodes) if nodes.isdigit() else 1)

    @property
    def run_dir(self) -> Path:
        """Where the run's files go."""
        assert self.settings is None or self.settings.run.dir is not None
        return Path(self.settings.run.dir or "") if self.settings else Path("runs")

    @property
    def training(self) -> tuple[str, ...]:
        """Folders or URLs of the training data."""
        data = self.settings.data if self.settings else None
        return (tuple(data.mix) or (data.train,)) if data else ()

    @property
    def sources(self) -> tuple[str, ...]:
        """Folders or URLs of all data, each once."""
        val = (self.settings.data.val,) if self.settings else ()
        return tuple(dict.fromkeys((*self.training, *val)))

    @property
    def has_remote_data(self) -> bool:
        """Whether a data set is named by a URL, so that the node's cache will be used."""
        return any(local_path(source) is None for source in self.sources)


def node_name() -> str:
    """What the scheduler calls this machine, or else its host name."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
