"""Ranks: their group, what they agree on, signals, a sign of life.

``process_group`` joins the ranks of a job, and ``choose_device`` gives each its device. Importing
this package imports no torch: the launcher uses its signals and exit codes.
"""

from typing import TYPE_CHECKING

from rwp_dist.base.lazy import lazy_names

if TYPE_CHECKING:
    from rwp_dist.process.consensus import Agreed
    from rwp_dist.process.group import choose_device, process_group
else:
    __getattr__ = lazy_names(
        __name__, Agreed="consensus", choose_device="group", process_group="group"
    )

__all__ = ["Agreed", "choose_device", "process_group"]
