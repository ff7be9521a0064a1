"""Times in files: ISO 8601 in UTC with its offset, such as ``2026-11-30T00:20:01.123+00:00``.

UTC on every machine, because a run may go on in another time zone, and because local clocks have an
hour twice a year. Earlier versions wrote seconds since 1970, and readers take those too.
"""

import time
from datetime import datetime, timezone


def now() -> str:
    """The present time, to the millisecond."""
    return text(time.time())


def text(seconds_since_1970: float) -> str:
    """A time as it is written."""
    moment = datetime.fromtimestamp(seconds_since_1970, timezone.utc)
    return moment.isoformat(timespec="milliseconds")


def seconds(written: str | float) -> float:
    """Seconds since 1970 of a time in a file. Compare and sort by it: texts may differ in offset.

    Raises:
        ValueError: it is no time, or has no offset.
    """
    if not isinstance(written, str):
        return float(written)
    # Before 3.11 Python does not know Z.
    moment = datetime.fromisoformat(f"{written[:-1]}+00:00" if written[-1:] == "Z" else written)
    if moment.tzinfo is None:
        raise ValueError(f"{written!r} has no offset from UTC")
    return moment.timestamp()
