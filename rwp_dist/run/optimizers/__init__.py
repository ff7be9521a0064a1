"""Optimizers by name, or by ``module:function``, from named parameters in groups."""

from rwp_dist.run.optimizers.entries import (
    OPTIMIZERS,
    OptimizerEntry,
    build_optimizer,
    is_elementwise,
)
from rwp_dist.run.optimizers.groups import Groups, group_parameters

__all__ = [
    "OPTIMIZERS",
    "Groups",
    "OptimizerEntry",
    "build_optimizer",
    "group_parameters",
    "is_elementwise",
]
