"""Random weight perturbation for any PyTorch loop: ``Perturbed``.

Needs torch and numpy, nothing else. Importing this package imports no torch, because settings and
launcher ask it for the names of the methods only.
"""

from typing import TYPE_CHECKING, Any

from rwp_dist.perturb.methods import METHODS, Method
from rwp_dist.perturb.schedule import increasing

if TYPE_CHECKING:
    from rwp_dist.perturb.perturbed import Perturbed

__all__ = ["METHODS", "Method", "Perturbed", "increasing"]


def __getattr__(name: str) -> Any:
    if name == "Perturbed":
        from rwp_dist.perturb.perturbed import Perturbed

        return Perturbed
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
