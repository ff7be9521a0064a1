"""torchrun on one node, with its own messages in a file.

    python -m launcher.agent LOGS NODE TORCHRUN'S ARGUMENTS

torchrun prints warnings, a banner and tracebacks to the stderr that it shares with its ranks, and
buries a rank's one sentence under them. Here they go to ``LOGS/node-NODE.log``.
"""

import sys
from pathlib import Path

from rwp_dist.process import signals, streams
from rwp_dist.process.exits import RankExit


def main(logs: Path, node: str, *arguments: str) -> None:
    """Run torchrun; ranks write how they ended to ``LOGS/agents``."""
    # The Python object alone: ranks inherit file descriptor 2.
    sys.stderr = (logs / f"node-{node}.log").open(
        "a", buffering=1, encoding="utf-8", errors="backslashreplace"
    )
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import get_args_parser
    from torch.distributed.run import main as torchrun

    options = [f"--log-dir={logs}/agents"]
    # torchrun would handle SIGHUP even if nohup has said that it is ignored. torch before 2.9 has
    # no such option.
    if signals.hang_up_is_ignored() and "--signals-to-handle" in get_args_parser().format_help():
        options.append("--signals-to-handle=SIGTERM,SIGINT,SIGQUIT")
    try:
        torchrun([*options, *arguments])
    except ChildFailedError as error:
        for rank, failure in error.failures.items():
            if not Path(failure.error_file).is_file():  # killed, so it could not say anything
                word = logs / "agents" / f"rank-{rank}" / "error.json"
                RankExit(rank, failure.exitcode, failure.timestamp).write(word)
        raise


if __name__ == "__main__":
    streams.prepare()
    main(Path(sys.argv[1]), *sys.argv[2:])
