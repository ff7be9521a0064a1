"""The machine under examination, and the run that is to start on it."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rwp_dist.config import Settings
from rwp_dist.data.chosen import num_workers
from rwp_dist.doctor.nvidia import Driver
from rwp_dist.doctor.probe import Gpu, Probe
from rwp_dist.process import launchers, torchrun


@dataclass(frozen=True)
class Machine:
    """This machine and, if there are settings, one run that is to start on it."""

    settings: Settings | None = None
    """Of the run; None: nothing is known of a run."""

    @cached_property
    def driver(self) -> Driver:
        """What NVIDIA's driver says of the GPUs; it is asked once."""
        return Driver.ask()

    @cached_property
    def probe(self) -> Probe | None:
        """What torch sees of the GPUs, looked at once; None: there is no driver."""
        return Probe.ask()

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """GPUs that this process may use."""
        return self.probe.gpus if self.probe else ()

    @property
    def on_gpus(self) -> bool:
        """Whether ranks will compute on GPUs here."""
        device = self.settings.run.device if self.settings else "auto"
        return device == "cuda" or (device == "auto" and bool(self.gpus))

    @property
    def num_ranks(self) -> int:
        """Ranks on this machine: as torchrun says, otherwise one for each GPU."""
        if torchrun.by_torchrun():
            return torchrun.ranks_here()
        return max(len(self.gpus), 1) if self.on_gpus else 1

    @property
    def world_size(self) -> int:
        """Ranks of the run: as torchrun says, otherwise as many on each node of the Slurm step."""
        if torchrun.by_torchrun():
            return torchrun.world_size()
        nodes = torchrun.number("SLURM_STEP_NUM_NODES") if launchers.in_slurm_step() else None
        return self.num_ranks * (nodes or 1)

    @property
    def workers(self) -> int:
        """Processes of each rank that read and decode."""
        return num_workers(self.settings, self.num_ranks) if self.settings else 0

    @property
    def run_dir(self) -> Path:
        """Where the run's files go."""
        return Path(self.settings.run.dir or "") if self.settings else Path("runs")
