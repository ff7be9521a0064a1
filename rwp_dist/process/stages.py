"""The stages of a start say their names, so that nobody waits in silence.

Imports no torch.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TextIO

from rwp_dist.process import torchrun

PATIENCE_S = 2.0
"""A stage that takes longer says its name."""

OTHERS_PATIENCE_S = 10.0
"""The same on ranks other than 0, of those stages that they name."""


@contextmanager
def stage(
    name: str, *, at_once: bool = False, every_rank: bool = False, file: TextIO | None = None
) -> Iterator[None]:
    """Print ``name ...`` on rank 0 if the block takes longer than ``PATIENCE_S``.

    Args:
        name: what the block does, such as ``opening the shards``.
        at_once: it is known to take long, so print before it.
        every_rank: the others print it too, after ``OTHERS_PATIENCE_S``: rank 0 may not even run.
        file: where to print; None: stdout as it is now. A command whose stdout is its result says
            stderr, or sends all that the block prints there.
    """
    first = torchrun.rank() == 0
    if not first and not every_rank:
        yield
        return
    # The present stdout: a block may redirect it to hide what a library prints.
    say = partial(print, f"{name} ...", flush=True, file=file or sys.stdout)
    if at_once:
        say()
        yield
        return
    timer = threading.Timer(PATIENCE_S if first else OTHERS_PATIENCE_S, say)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def loading() -> Iterator[None]:
    """The stage of a block that imports torch, unless it is imported already."""
    with stage("loading torch", at_once="torch" not in sys.modules):
        yield
