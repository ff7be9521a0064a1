"""What an evaluation looks at beside the clean network. Imports no torch."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite
from typing import TypeVar

from rwp_dist.base.errors import ConfigError
from rwp_dist.evaluation.corruptions import CORRUPTIONS, STRENGTHS

T = TypeVar("T", int, float)


@dataclass(frozen=True)
class Asked:
    """Conditions under which a network is evaluated."""

    corruptions: tuple[str, ...] = ()
    """Names of ``CORRUPTIONS``, each at all ``STRENGTHS``."""
    weight_noise: tuple[float, ...] = ()
    """Deviations of the noise, relative to the root mean square of each row of weights."""
    draws: int = 1
    """Draws of noise for each deviation."""
    bits: tuple[int, ...] = ()
    """Bits of one weight."""
    per_class: bool = False
    """Whether the clean network's answers are counted by class."""

    @property
    def num_passes(self) -> int:
        """Passes over the evaluation samples, with that of the clean network."""
        images = len(self.corruptions) * len(STRENGTHS)
        return 1 + images + len(self.weight_noise) * self.draws + len(self.bits)


def parse_asked(
    corruptions: str, weight_noise: str, draws: int, bits: str, *, per_class: bool = False
) -> Asked:
    """What the options of the command line say; values are separated by commas.

    Raises:
        ConfigError: an unknown corruption, noise that is not above 0, bits that are not 2 to 16.
    """
    names = tuple(CORRUPTIONS) if corruptions == "all" else _parts(corruptions)
    for name in names:
        if name not in CORRUPTIONS:
            raise ConfigError(
                f"there is no corruption {name!r}",
                key="--corruptions",
                cure=f"choose from {', '.join(CORRUPTIONS)}, or all",
            )

    def sound(deviation: float) -> bool:
        return isfinite(deviation) and deviation > 0

    noise = _numbers(weight_noise, float, "--weight-noise", sound, "numbers above 0, as 0.01,0.02")
    widths = _numbers(bits, int, "--bits", lambda b: 2 <= b <= 16, "numbers from 2 to 16, as 8,6,4")
    return Asked(names, noise, draws, widths, per_class)


def _parts(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _numbers(
    text: str, kind: Callable[[str], T], key: str, sound: Callable[[T], bool], wanted: str
) -> tuple[T, ...]:
    numbers: list[T] = []
    for part in _parts(text):
        with suppress(ValueError):
            numbers.append(kind(part))
            if sound(numbers[-1]):
                continue
        raise ConfigError(f"{part!r} is not possible", key=key, cure=f"give {wanted}")
    return tuple(numbers)
