"""What can go wrong, as a small tree: each class knows the exit code of the command line.

A message is one sentence that names the thing and one that names the cure; the command line
prints it without a traceback (``--debug`` shows that too).
"""


class RwpError(Exception):
    """A run that failed for a reason its user can act on."""

    exit_code = 1


class ConfigError(RwpError):
    """Settings that cannot be run, found before anything is allocated."""

    exit_code = 2


class DataError(RwpError):
    """Shards or samples that cannot be read as what the settings say they are."""


class ReplicaError(RwpError):
    """Ranks whose weights should be bit-identical and are not."""

    exit_code = 65


class CheckpointError(RwpError):
    """A checkpoint that cannot be loaded, or belongs to another run."""

    exit_code = 65


class Interrupted(RwpError):  # noqa: N818 - no error, as KeyboardInterrupt is none
    """A signal asked the run to stop; a checkpoint is on disk."""

    exit_code = 75
