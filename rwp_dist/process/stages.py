"""The stages of a start, named if they take long, so that nobody waits in silence.

Imports no torch.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rwp_dist.process import torchrun

PATIENCE_S = 2.0
"""A stage that takes longer says its name."""


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Print ``name ...`` on rank 0 if the block takes longer than ``PATIENCE_S``."""
    if torchrun.rank() != 0:
        yield
        return
    # The present stdout: a block may redirect it to hide what a library prints.
    options = {"flush": True, "file": sys.stdout}
    timer = threading.Timer(PATIENCE_S, print, [f"{name} ..."], options)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
