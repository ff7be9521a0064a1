"""How a rank ended: a small JSON file that a failing rank leaves for its agent.

torchrun names the file in ``TORCHELASTIC_ERROR_FILE``. Imports nothing that takes time.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rwp_dist.base import clock
from rwp_dist.base.files import read_json
from rwp_dist.process import torchrun

STOPPED = 130
"""Exit code of a process that Ctrl-C ended before there was anything to save."""


@dataclass(frozen=True)
class RankExit:
    """The end of a rank whose exit code is not 0."""

    rank: int
    exit_code: int
    """``-N``: signal N ended it."""

    time: float
    """Seconds since 1970; text in the file, as all times there."""

    host: str = field(default_factory=torchrun.node_name)
    message: str = ""
    """Empty: the rank was killed, or ended without a word."""

    said: bool = False
    """Rank 0 has printed the message already."""

    shared: bool = False
    """Every rank ends with this message."""

    lost: bool = False
    """The rank failed only because another rank was gone."""

    def write(self, path: Path) -> None:
        """Write the file as a whole; a full or missing disk is ignored."""
        # Not by base/files: a sync of a disk that hangs would keep the process from ending, and
        # nobody reads this after a power cut.
        # torchrun reads "timestamp" and insists on whole seconds.
        known = asdict(self) | {"time": clock.text(self.time), "timestamp": int(self.time)}
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f"{path.name}.part")
            part.write_text(json.dumps(known), encoding="utf-8")
            part.replace(path)

    @classmethod
    def read(cls, path: Path) -> "RankExit | None":
        """Read such a file; None if it is torn or somebody else's."""
        try:
            known = read_json(path)
            return cls(
                rank=int(known["rank"]),
                exit_code=int(known["exit_code"]),
                time=clock.seconds(known["time"]),
                host=str(known["host"]),
                message=str(known["message"]),
                said=bool(known.get("said")),
                shared=bool(known.get("shared")),
                lost=bool(known.get("lost")),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None


def report_exit(
    message: str, exit_code: int, *, said: bool = False, shared: bool = False, lost: bool = False
) -> None:
    """Tell the agent, if there is one, how this process is about to end (see ``RankExit``)."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        known = RankExit(
            torchrun.rank(),
            exit_code,
            time.time(),
            message=message,
            said=said,
            shared=shared,
            lost=lost,
        )
        known.write(Path(path))


def read_exits(folder: Path) -> Iterator[RankExit]:
    """All that ranks have reported, at any depth below ``folder``."""
    for path in folder.rglob("error.json"):
        known = RankExit.read(path)
        if known is not None:
            yield known


def another_rank_stopped() -> bool:
    """Whether Ctrl-C has ended another rank of this machine, so that this one cannot go on."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not path:
        return False
    attempt = Path(path).parents[1]  # torchrun keeps the files of one attempt side by side
    return any(known.exit_code == STOPPED for known in read_exits(attempt))
