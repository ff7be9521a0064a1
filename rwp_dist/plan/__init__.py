"""``rwp-dist plan``: what a run would take on a cluster, before anyone pays for it.

``model`` has the formulas, ``hardware`` the constants of GPUs and links with their sources.
Importing this package imports no torch.
"""

from rwp_dist.plan.hardware import ASCENT_COPIES, DDP_BUCKET_BYTES, DDP_FIRST_BUCKET_BYTES
from rwp_dist.plan.model import (
    Bucket,
    Cores,
    Fabric,
    Link,
    StepTime,
    Work,
    make_buckets,
    step_time,
)

__all__ = [
    "ASCENT_COPIES",
    "DDP_BUCKET_BYTES",
    "DDP_FIRST_BUCKET_BYTES",
    "Bucket",
    "Cores",
    "Fabric",
    "Link",
    "StepTime",
    "Work",
    "make_buckets",
    "step_time",
]
