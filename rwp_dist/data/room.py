"""What a machine gives processes that hand batches over: shared memory, semaphores, files, sockets.

Imports no torch.
"""

import multiprocessing
import os
from pathlib import Path

from rwp_dist.base.text import size
from rwp_dist.process.limits import open_files
from rwp_dist.process.sockets import can_make_sockets

SHARED_MEMORY = Path("/dev/shm")

PAGE = 4096
SEMAPHORES_OF_WORKER = 16 * PAGE
"""Shared memory for locks of queues: measured, rounded up."""

FILES_OF_RANK = 100
"""Files, pipes and sockets that a rank holds besides: measured, rounded up."""


def why_not_shared(step_bytes: int, *, prefetch: int, workers: int, ranks: int) -> str | None:
    """Why workers cannot hand their batches over in shared memory; None if they can.

    Args:
        step_bytes: of the batches of one step.
        prefetch: steps that each worker keeps ready; one more is in the making.
        workers: processes of each rank.
        ranks: those of this machine.
    """
    try:
        multiprocessing.get_context("fork").Lock()  # a file there
    except (OSError, ImportError) as error:
        return f"{SHARED_MEMORY} is of no use ({getattr(error, 'strerror', None) or error})"
    if not can_make_sockets():
        return "there is no folder for sockets (see TMPDIR)"
    need = shared_bytes(step_bytes, prefetch=prefetch, workers=workers, ranks=ranks)
    free = shared_memory_left()
    if free is not None and free < need:
        return f"{SHARED_MEMORY} has {size(free)} free, and workers need {size(need)}"
    files = FILES_OF_RANK + 3 * workers * (prefetch + 2)  # a step is three tensors
    if open_files() < files:
        return f"{open_files()} files may be open at once (ulimit -n), and a rank needs {files}"
    return None


def shared_bytes(step_bytes: int, *, prefetch: int, workers: int, ranks: int) -> int:
    """Shared memory that workers need (see ``why_not_shared``)."""
    of_step = step_bytes + 3 * PAGE  # three tensors, each in pages of its own
    return ranks * workers * ((prefetch + 1) * of_step + SEMAPHORES_OF_WORKER)


def batch_bytes(samples: int, image_size: int, channels: int) -> int:
    """Bytes of so many decoded samples: uint8 images, a label and a weight each."""
    return samples * (channels * image_size**2 + 12)


def shared_memory_left() -> int | None:
    """Bytes; None on a system that has shared memory elsewhere."""
    try:
        status = os.statvfs(SHARED_MEMORY)
    except OSError:
        return None
    return status.f_bavail * status.f_frsize
