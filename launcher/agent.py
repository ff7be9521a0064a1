"""torchrun's agent for one machine, which says what a person needs to know when ranks end badly.

    python -m launcher.agent NPROC COMMAND...      ranks run `python -m rwp_dist COMMAND...`

It is torch's own elastic launch (rendezvous, monitoring, clean-up); torchrun's command line would
bury a rank's one sentence under its own tracebacks.
"""

import logging
import os
import signal
import sys

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

SAVED = 75


def main(nproc: int, command: list[str]) -> int:
    """Run the ranks to their end; returns the exit code."""
    logging.disable(logging.ERROR)  # of the agent itself; ranks are processes of their own
    # As torchrun does: ranks that each use all cores slow each other down.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=nproc,
        run_id=str(os.getpid()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "rwp_dist", *command)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            hint = " (out of memory, perhaps)" if name == "SIGKILL" else ""
            print(f"Rank {rank} was ended by {name}{hint}.", file=sys.stderr)
            return 1
        return int(failure.exitcode)
    except SignalException:
        # The ranks have had the signal too, and said what they did about it.
        return SAVED
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
