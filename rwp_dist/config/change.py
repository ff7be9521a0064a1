"""Settings that a run may change on its way, where a person asks for it: ``--change``."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

CHANGEABLE = (
    *("schedule.*", "augment.*", "average.*", "evaluation.*"),
    *map(
        "optimizer.{}".format,
        ("lr", "momentum", "nesterov", "betas", "eps", "weight_decay", "clip_*"),
    ),
    *map(
        "method.{}".format,
        (
            *("lambda", "sigma", "sigma_schedule", "sigma_increase", "warmup_epochs"),
            *("warmup_steps", "rho", "every", "start", "stop", "eta", "beta", "power", "scale"),
        ),
    ),
)
"""Patterns of settings that affect the result and may change. With another network, optimizer,
method, seed or batch, the rest of a run would be no rest of that run."""

FIXED = ("augment.repeats",)
"""Exceptions: they say which samples an epoch shows."""


def is_changeable(key: str) -> bool:
    """Whether a run that goes on may have another value of a setting that affects its result."""
    return key not in FIXED and any(fnmatchcase(key, pattern) for pattern in CHANGEABLE)


def with_changes(overrides: Sequence[str], changes: Sequence[str]) -> tuple[str, ...]:
    """Overrides of a run that goes on with changes, each ``section.key=value``."""
    if not changes:
        return tuple(overrides)
    keys = ", ".join(dict.fromkeys(change.partition("=")[0] for change in changes))
    return (*overrides, *changes, f"run.change=[{keys}]")
