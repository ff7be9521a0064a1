"""torchrun on one node, with its own messages in a file.

    python -m launcher.agent LOGS NODE TORCHRUN'S ARGUMENTS

torchrun prints warnings, a banner and tracebacks to the stderr that it shares with its ranks, and
buries a rank's one sentence under them. Here they go to ``LOGS/node-NODE.log``.
"""

import sys
from pathlib import Path

from rwp_dist.process.exits import RankExit


def main(logs: Path, node: str, *arguments: str) -> None:
    """Run torchrun; ranks write how they ended to ``LOGS/agents``."""
    # The Python object alone: ranks inherit file descriptor 2.
    sys.stderr = (logs / f"node-{node}.log").open("a", buffering=1)
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    try:
        torchrun([f"--log-dir={logs}/agents", *arguments])
    except ChildFailedError as error:
        for rank, failure in error.failures.items():
            if not Path(failure.error_file).is_file():  # killed, so it could not say anything
                word = logs / "agents" / f"rank-{rank}" / "error.json"
                RankExit(rank, failure.exitcode, failure.timestamp).write(word)
        raise


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
