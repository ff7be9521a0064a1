"""The run directory, which is the record of a run. Imports no torch.

``directory.RunDir`` names its files; ``open.open_run`` opens it for training, or refuses to.
``identity`` tells a run from others.
"""

from rwp_dist.record.code import commit_of
from rwp_dist.record.directory import RunDir
from rwp_dist.record.identity import Identity, identity_of

__all__ = ["Identity", "RunDir", "commit_of", "identity_of"]
