"""What one run consists of, built from its settings. ``rwp_dist.train`` has the loop over it.

``build_parts`` makes everything, ``build_model`` just the network. Importing this package imports
neither torch nor DeepSpeed.
"""

from typing import TYPE_CHECKING

from rwp_dist.base.lazy import lazy_names

if TYPE_CHECKING:
    from rwp_dist.run.agreement import agree
    from rwp_dist.run.build import build_parts
    from rwp_dist.run.flops import profile_pass
    from rwp_dist.run.models import build_model
    from rwp_dist.run.parts import Parts
    from rwp_dist.run.profiling import Profile
    from rwp_dist.run.progress import Progress, memory_bytes
    from rwp_dist.run.watch import Watch
else:
    __getattr__ = lazy_names(
        __name__,
        Parts="parts",
        Profile="profiling",
        Progress="progress",
        Watch="watch",
        agree="agreement",
        build_model="models",
        build_parts="build",
        memory_bytes="progress",
        profile_pass="flops",
    )

__all__ = [
    "Parts",
    "Profile",
    "Progress",
    "Watch",
    "agree",
    "build_model",
    "build_parts",
    "memory_bytes",
    "profile_pass",
]
