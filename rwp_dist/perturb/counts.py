"""What a ``Perturbed`` has counted."""

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Counts:
    """What happened so far, on this rank."""

    steps: int = 0
    skipped_steps: int | Tensor = 0
    perturbed_passes: int = 0
    passes_at_strength_0: int = 0
    """Passes that would have been perturbed at another strength."""
