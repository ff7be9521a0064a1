"""What torchrun says of this process. Imports no torch."""

import os


def world_size() -> int:
    """Ranks that torchrun has started; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This rank; 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """This rank among those of its node; 0 without torchrun."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def by_torchrun() -> bool:
    """Whether torchrun, or something that speaks like it, has started this process."""
    return "WORLD_SIZE" in os.environ and "RANK" in os.environ
