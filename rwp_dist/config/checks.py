"""Combinations of settings that cannot work, each with its cure."""

from collections.abc import Iterator
from math import gcd

from rwp_dist.config.derive import contradictions
from rwp_dist.config.tree import Settings
from rwp_dist.perturb.methods import METHODS

Problem = tuple[tuple[str, ...], str]
"""The keys that a check read, and its message."""


def combinations(s: Settings) -> Iterator[Problem]:
    """Every impossible combination of otherwise valid settings."""
    yield from _schedule(s)
    yield from _method(s)
    for field in ("mean", "std"):
        count = len(getattr(s.data, field))
        if count not in (1, s.data.channels):
            yield (
                (f"data.{field}", "data.channels"),
                f"data.{field}: {count} values for {s.data.channels} channels; "
                f"give 1 or {s.data.channels}.",
            )
    if s.data.lanes and s.batch.global_ % s.data.lanes:
        yield (
            ("data.lanes", "batch.global"),
            f"data.lanes: {s.data.lanes} lanes do not divide a batch of {s.batch.global_}; set "
            f"data.lanes to {gcd(s.data.lanes, s.batch.global_)}.",
        )
    if s.augment.scale[0] > s.augment.scale[1] or s.augment.scale[1] == 0:
        yield (("augment.scale",), "augment.scale: give the least, then the most, above 0.")
    if s.data.mix and s.data.sampling == "balanced":
        yield (
            ("data.mix", "data.sampling"),
            "data.sampling: classes are balanced within one training set; set data.sampling to "
            "natural, or data.mix to {}.",
        )
    if s.optimizer.nesterov and (s.optimizer.name != "sgd" or s.optimizer.momentum == 0):
        yield (
            ("optimizer.nesterov", "optimizer.momentum", "optimizer.name"),
            "optimizer.nesterov: works only for sgd with momentum; set optimizer.nesterov to "
            "false, or optimizer.name to sgd and optimizer.momentum above 0.",
        )
    if s.deepspeed.overlap_comm and s.deepspeed.zero_stage == 0:
        yield (
            ("deepspeed.overlap_comm", "deepspeed.zero_stage"),
            "deepspeed.overlap_comm: stage 0 never overlaps; set deepspeed.zero_stage to 1 or 2.",
        )
    for message in contradictions(s):
        yield ("deepspeed.extra", "deepspeed.zero_stage", "precision"), message


def _schedule(s: Settings) -> Iterator[Problem]:
    length, warmup = _in_same_unit(s, s.schedule.warmup_epochs, s.schedule.warmup_steps)
    if warmup > length:
        yield (
            ("schedule.epochs", "schedule.warmup_epochs", "schedule.warmup_steps"),
            f"schedule.warmup: lasts {warmup:g} and the whole run {length:g}; make it shorter.",
        )
    stepped = s.schedule.decay_steps or s.schedule.decay_epochs
    if (s.schedule.name == "step") != bool(stepped):
        yield (
            ("schedule.name", "schedule.decay_epochs", "schedule.decay_steps"),
            "schedule.decay_epochs: a step schedule needs it and no other has it; set "
            "schedule.name to step and schedule.decay_epochs to, say, [30, 60, 80].",
        )


def _in_same_unit(s: Settings, epochs: float, steps: int | None) -> tuple[float, float]:
    """The run's length and a duration in one unit; a duration of 0 where units differ.

    How many steps an epoch has is known once the shards are open; ``Timeline.of`` checks the rest.
    """
    if s.schedule.steps is not None:
        return s.schedule.steps, steps or 0
    return s.schedule.epochs, 0 if steps is not None else epochs


def _method(s: Settings) -> Iterator[Problem]:
    m = s.method
    length, warmup = _in_same_unit(s, m.warmup_epochs, m.warmup_steps)
    if warmup > length:
        yield (
            ("schedule.epochs", "method.warmup_epochs", "method.warmup_steps"),
            f"method.warmup: noise would start after {warmup:g} and the run ends at {length:g}; "
            "make it shorter.",
        )
    direction = METHODS[m.name].direction
    if direction == "ascent" and s.deepspeed.zero_stage == 3:
        yield (
            ("method.name", "deepspeed.zero_stage"),
            f"deepspeed.zero_stage: {m.name}'s ascent needs whole gradients and whole weights on "
            "every rank, which stage 3 does not keep; set deepspeed.zero_stage to 2.",
        )
    if m.antithetic and direction != "noise":
        yield (
            ("method.antithetic", "method.name"),
            f"method.antithetic: {m.name} draws no noise; set method.antithetic to false.",
        )
    if m.antithetic and s.deepspeed.zero_stage == 3:
        yield (
            ("method.antithetic", "deepspeed.zero_stage"),
            "method.antithetic: stage 3 shares one noise among all ranks; set "
            "deepspeed.zero_stage to 2.",
        )
