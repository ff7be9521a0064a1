"""A sign of life for a container's health check or a liveness probe. Imports no torch.

While a run trains, one rank of each node touches the file that ``RWP_HEARTBEAT`` names, at most
once a second. When training ends, well or badly, the file is removed.

``python -m rwp_dist.process.heartbeat`` is the check. It exits with 1 if the file is there and was
not touched for ``RWP_HEARTBEAT_MAX_AGE_S`` seconds. Set that to more than the slowest step,
evaluation or checkpoint takes. Without the file nothing trains here, and the check succeeds.
"""

import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from rwp_dist.process import torchrun

MAX_AGE_S = 900.0
INTERVAL_S = 1.0


class Heartbeat:
    """Touches the file from the first step to the last, if ``RWP_HEARTBEAT`` is set."""

    def __init__(self) -> None:
        name = os.environ.get("RWP_HEARTBEAT")
        self.path = Path(name) if name and torchrun.local_rank() == 0 else None
        self._last = -INTERVAL_S

    def __enter__(self) -> "Heartbeat":
        self.beat()
        return self

    def __exit__(self, *exc: object) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def beat(self) -> None:
        """Touch the file, unless that was done within the last second. Call it after each step."""
        now = time.monotonic()
        if self.path is not None and now - self._last >= INTERVAL_S:
            self.path.touch()
            # By this machine's clock, which the check reads: the disk's may be another.
            with suppress(OSError):
                os.utime(self.path, (time.time(), time.time()))
            self._last = now


def main() -> int:
    """Print the age of the last beat; returns the exit code of the check."""
    name = os.environ.get("RWP_HEARTBEAT")
    if not name:
        print("RWP_HEARTBEAT names no file; set it for the run and for this command.")
        return 1
    try:
        age = max(0.0, time.time() - Path(name).stat().st_mtime)
    except FileNotFoundError:
        print("nothing trains here, or not yet")
        return 0
    print(f"last beat {age:.0f} s ago")
    return int(age > float(os.environ.get("RWP_HEARTBEAT_MAX_AGE_S", MAX_AGE_S)))


if __name__ == "__main__":
    sys.exit(main())
