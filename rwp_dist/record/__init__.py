"""The run directory, which is the record of a run. Imports no torch.

``directory.RunDir`` names its files; ``open.open_run`` opens it for training, or refuses to.
"""

from rwp_dist.record.directory import RunDir

__all__ = ["RunDir"]
