"""Learning-rate schedules: what comes between warm-up and the end of a run.

Imports no torch.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from rwp_dist.config import Settings


@dataclass(frozen=True)
class Span:
    """The parts of a run in steps, and the learning rates at its ends."""

    peak: float
    """Learning rate after warm-up."""
    low: float
    """Learning rate that a decay ends at (``schedule.min_lr``)."""
    warmup: int
    """Steps of warm-up."""
    decays: tuple[int, ...]
    """Steps of ``schedule.decay_steps``, or of ``decay_epochs``."""
    end: int
    """First step of the cool-down; the length of the run if there is none."""
    gamma: float
    power: float


def _cosine(span: Span, step: int) -> float:
    """Half a period of a cosine (Loshchilov and Hutter, ICLR 2017, arXiv 1608.03983)."""
    done, length = step - span.warmup, max(span.end - span.warmup, 1)
    return span.low + (span.peak - span.low) * 0.5 * (1.0 + math.cos(math.pi * done / length))


def _polynomial(span: Span, step: int) -> float:
    """``(1 - t)^power`` with t from 0 to 1; linear for a power of 1."""
    return _falling(span, step, span.warmup)


def _wsd(span: Span, step: int) -> float:
    """Warm-up, stable, decay (Hu et al., 2024, arXiv 2404.06395); the decay is a polynomial."""
    return _falling(span, step, min(span.decays))


def _falling(span: Span, step: int, first: int) -> float:
    left = 1.0 - max(step - first, 0) / max(span.end - first, 1)
    return span.low + (span.peak - span.low) * left**span.power


def _step(span: Span, step: int) -> float:
    """Times ``gamma`` at each of the decays."""
    return span.peak * span.gamma ** sum(step >= at for at in span.decays)


def _constant(span: Span, step: int) -> float:
    return span.peak


def _after_warmup(span: Span) -> int:
    return span.warmup


def _first_decay(span: Span) -> int:
    return min(span.decays)


@dataclass(frozen=True)
class Schedule:
    """One schedule."""

    lr: Callable[[Span, int], float]
    """Learning rate of a step after warm-up and before the cool-down."""
    decay_start: Callable[[Span], int] | None
    """First step at which the learning rate falls; None: it never does."""


SCHEDULES: dict[str, Schedule] = {
    "cosine": Schedule(_cosine, _after_warmup),
    "polynomial": Schedule(_polynomial, _after_warmup),
    "wsd": Schedule(_wsd, _first_decay),
    "step": Schedule(_step, _first_decay),
    "constant": Schedule(_constant, None),
}


def learning_rate(settings: Settings, span: Span, step: int) -> float:
    """Learning rate of one step, counted from 0."""
    s = settings.schedule
    if step < span.warmup:
        first = span.peak * s.warmup_from
        return first + (span.peak - first) * (step + 1) / span.warmup
    if step >= span.end:
        return span.low
    return SCHEDULES[s.name].lr(span, step)
