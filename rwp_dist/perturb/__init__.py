"""Random weight perturbation for any PyTorch loop: ``Perturbed``.

Needs torch and numpy, nothing else. Importing this package imports no torch, because settings and
launcher ask it for the names of the methods only.

Also here: what ``Perturbed`` can be given (``Slot``, ``CleanWeights``), and the parts that
benchmarks time on their own (rows of weights and the scale of their noise).
"""

from typing import TYPE_CHECKING

from rwp_dist.base.lazy import lazy_names
from rwp_dist.perturb.methods import METHODS, Method
from rwp_dist.perturb.schedule import increasing
from rwp_dist.perturb.slots import Slot

if TYPE_CHECKING:
    from rwp_dist.perturb.perturbed import Perturbed
    from rwp_dist.perturb.rows import Rows, list_rows
    from rwp_dist.perturb.scale import NoiseScale
    from rwp_dist.perturb.weights import CleanWeights, PerturbedCopy
else:
    __getattr__ = lazy_names(
        __name__,
        CleanWeights="weights",
        NoiseScale="scale",
        Perturbed="perturbed",
        PerturbedCopy="weights",
        Rows="rows",
        list_rows="rows",
    )

__all__ = [
    "METHODS",
    "CleanWeights",
    "Method",
    "NoiseScale",
    "Perturbed",
    "PerturbedCopy",
    "Rows",
    "Slot",
    "increasing",
    "list_rows",
]
