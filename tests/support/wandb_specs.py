"""What tests read in specifications of W&B."""

from collections.abc import Iterator
from typing import Any


def strings(value: Any) -> Iterator[str]:
    """Every text in nested lists and dicts, without keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        value = list(value.values())
    for item in value if isinstance(value, list) else ():
        yield from strings(item)
