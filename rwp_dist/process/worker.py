"""What a process does first that is a worker of another one, from multiprocessing's fork server."""

import multiprocessing
import os
import signal
import threading
from multiprocessing.process import BaseProcess

from rwp_dist.process import streams


def follow_parent() -> None:
    """End when the process that started this one does, which alone obeys Ctrl-C."""
    streams.outlive_reader()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which reports it
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
