"""A time limit as Slurm writes it."""

import re

from rwp_dist.base.errors import ConfigError

SAVE_S = 600
"""How long before its limit a job asks its ranks to save and stop."""

_FORMATS = (
    r"(?P<m>\d+)",
    r"(?P<m>\d+):(?P<s>\d+)",
    r"(?P<h>\d+):(?P<m>\d+):(?P<s>\d+)",
    r"(?P<d>\d+)-(?P<h>\d+)(?::(?P<m>\d+)(?::(?P<s>\d+))?)?",
)
_SECONDS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_NONE = {"unlimited", "infinite", "-1"}


def limit_seconds(text: str, *, key: str = "--time") -> int | None:
    """The seconds of a time limit; None for ``UNLIMITED``.

    Raises:
        ConfigError: Slurm would refuse it, or take 0 for no limit.
    """
    if text.lower() in _NONE:
        return None
    match = next(filter(None, (re.fullmatch(f, text, re.ASCII) for f in _FORMATS)), None)
    parts = (
        {name: int(value) for name, value in match.groupdict().items() if value} if match else {}
    )
    total = sum(_SECONDS[name] * value for name, value in parts.items())
    if not total:
        raise ConfigError(
            f"{text!r:.80} is no time limit",
            key=key,
            cure="write minutes, minutes:seconds, hours:minutes:seconds, days-hours, "
            "days-hours:minutes or days-hours:minutes:seconds, as in 24:00:00; or UNLIMITED",
        )
    return total


def save_seconds(limit_s: int) -> int:
    """How long before a limit ranks are told to save: of a short one, a quarter is left."""
    return SAVE_S if limit_s >= 4 * SAVE_S else max(1, limit_s // 4)
