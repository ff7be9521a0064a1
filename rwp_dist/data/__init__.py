"""Samples and their order: from the settings of a data set to batches.

``open_train`` gives the steps of a run, ``Plan`` the samples of each step. Importing this package
imports no torch: ``rwp_dist.shards`` uses its formats.
"""

from typing import TYPE_CHECKING

from rwp_dist.base.lazy import lazy_names

if TYPE_CHECKING:
    from rwp_dist.data.batch import Batch, Step
    from rwp_dist.data.checked import save_manifest
    from rwp_dist.data.chosen import data_identity
    from rwp_dist.data.open import open_train
    from rwp_dist.data.plan import Plan
    from rwp_dist.data.selection import Everything
    from rwp_dist.data.stream import TrainStream
else:
    __getattr__ = lazy_names(
        __name__,
        Batch="batch",
        Everything="selection",
        Plan="plan",
        Step="batch",
        TrainStream="stream",
        data_identity="chosen",
        open_train="open",
        save_manifest="checked",
    )

__all__ = [
    "Batch",
    "Everything",
    "Plan",
    "Step",
    "TrainStream",
    "data_identity",
    "open_train",
    "save_manifest",
]
