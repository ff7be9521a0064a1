"""What torchrun tells its ranks in environment variables. Imports no torch."""

import os


def world_size() -> int:
    """Number of ranks; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Number of this rank; 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Number of this rank among those of its node; 0 without torchrun."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def by_torchrun() -> bool:
    """Whether torchrun, or a launcher that sets the same variables, has started this process."""
    return "WORLD_SIZE" in os.environ and "RANK" in os.environ
