"""Combinations of settings that cannot work, each with its cure."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd, isfinite
from typing import Any

from rwp_dist.config.change import is_changeable
from rwp_dist.config.engines import for_ddp_alone, names_deepspeed
from rwp_dist.config.keys import setting_of
from rwp_dist.config.tree import LOSSES, OPTIMIZERS, SCHEDULES, Settings
from rwp_dist.config.types import MOST_CONFUSED, Affects
from rwp_dist.perturb.methods import METHODS


@dataclass(frozen=True)
class Conflict:
    """Settings that are valid one by one and cannot work together."""

    keys: tuple[str, ...]
    """Every setting that takes part. The first one is at fault."""

    problem: str
    cure: str


def conflicts(s: Settings) -> Iterator[Conflict]:
    """Every conflict of otherwise valid settings."""
    for section, values in s.model_dump().items():
        for name, value in values.items() if isinstance(values, dict) else ():
            if isinstance(value, str) and "\0" in value:
                yield Conflict((f"{section}.{name}",), "it has a zero byte", "remove it")
            if isinstance(value, dict) and not _is_finite(value):
                yield Conflict(
                    (f"{section}.{name}",), "a value is not finite", "write a number, or quote it"
                )
    yield from _data(s)
    yield from _loss(s)
    yield from _schedule(s)
    yield from _method(s)
    yield from _optimizer(s)
    yield from _clipping(s)
    if s.deepspeed.overlap_comm and s.deepspeed.zero_stage in (0, "auto"):
        yield Conflict(
            ("deepspeed.overlap_comm", "deepspeed.zero_stage"),
            f"is for ZeRO's stages 1 to 3, and deepspeed.zero_stage is {s.deepspeed.zero_stage}",
            "set deepspeed.zero_stage to 1 or 2, or deepspeed.overlap_comm to false",
        )
    if s.run.compile and s.deepspeed.zero_stage == 3:
        yield Conflict(
            ("run.compile", "deepspeed.zero_stage"),
            "stage 3 gathers the weights of each layer during a pass, which one graph cannot",
            "set it to false, or deepspeed.zero_stage to 2",
        )
    for key, why in for_ddp_alone(s).items() if names_deepspeed(s) else ():
        stage = s.deepspeed.zero_stage
        cure = "set engine.name to ddp" if stage in (0, "auto") else "set deepspeed.zero_stage to 0"
        if s.engine.name == "deepspeed" and stage not in (0, "auto"):
            cure = "set engine.name to ddp and deepspeed.zero_stage to 0"
        yield Conflict(
            (key, "engine.name", "deepspeed.zero_stage", "deepspeed.extra"),
            why,
            f"{cure}, or {'precision to bf16' if key == 'precision' else f'{key} to 0'}",
        )
    if s.model.checkpointing and s.run.compile:
        yield Conflict(
            ("model.checkpointing", "run.compile"),
            "torch.compile chooses by itself what a backward pass computes again",
            "set model.checkpointing or run.compile to false",
        )
    if s.model.checkpointing and s.deepspeed.zero_stage == 3:
        yield Conflict(
            ("model.checkpointing", "deepspeed.zero_stage"),
            "stage 3 gathers the weights of a layer once a pass, and a block computed again needs "
            "them twice",
            "set it to false, or deepspeed.zero_stage to 2",
        )
    for key in s.run.change:
        known = setting_of(key)
        if known and known.affects is Affects.RESULT and not is_changeable(key):
            yield Conflict(
                ("run.change",),
                f"a run cannot go on with another {key}",
                "train another run, in another run.dir",
            )
    if s.average.name != "none" and s.deepspeed.zero_stage == 3:
        yield Conflict(
            ("average.name", "deepspeed.zero_stage"),
            "stage 3 leaves each rank a share of the weights only",
            "set it to none, or deepspeed.zero_stage to 2",
        )
    if s.evaluation.per_class and s.model.num_classes > MOST_CONFUSED:
        yield Conflict(
            ("evaluation.per_class", "model.num_classes"),
            f"a confusion matrix has at most {MOST_CONFUSED:,} classes",
            "set it to false",
        )
    if s.engine.name == "ddp" and s.deepspeed.zero_stage not in (0, "auto"):
        yield Conflict(
            ("engine.name", "deepspeed.zero_stage"),
            f"ddp splits nothing, and stage {s.deepspeed.zero_stage} does",
            "set deepspeed.zero_stage to 0, or engine.name to deepspeed",
        )
    if s.engine.name == "ddp" and s.deepspeed.extra:
        yield Conflict(
            ("engine.name", "deepspeed.extra"),
            "ddp has no use for deepspeed.extra",
            "remove deepspeed.extra, or set engine.name to deepspeed",
        )


def _optimizer(s: Settings) -> Iterator[Conflict]:
    o = s.optimizer
    if o.nesterov and ("nesterov" not in OPTIMIZERS.get(o.name, ()) or o.momentum == 0):
        yield Conflict(
            ("optimizer.nesterov", "optimizer.momentum", "optimizer.name"),
            "works only for sgd, lars and muon with momentum",
            "set optimizer.nesterov to false, or optimizer.name to sgd and optimizer.momentum "
            "above 0",
        )


def _clipping(s: Settings) -> Iterator[Conflict]:
    kinds = ("clip_norm", "clip_value", "clip_agc")
    first, *others = [f"optimizer.{kind}" for kind in kinds if getattr(s.optimizer, kind)] or [""]
    if others:
        yield Conflict(
            (others[0], first, *others[1:]),
            f"gradients are clipped in one way, and {first} is another",
            f"set {first} or this to 0",
        )


def _is_finite(value: Any) -> bool:
    """Whether all numbers in nested values are finite; files of a run could not keep the others."""
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or isfinite(value)


def _data(s: Settings) -> Iterator[Conflict]:
    for key, values in (("data.mean", s.data.mean), ("data.std", s.data.std)):
        if len(values) not in (1, s.data.channels):
            allowed = "1 value" if s.data.channels == 1 else f"1 or {s.data.channels} values"
            yield Conflict(
                (key, "data.channels"),
                f"{len(values)} values for {s.data.channels} channels",
                f"give {allowed}",
            )
    repeats = s.augment.repeats
    different = s.batch.global_ // repeats
    if s.batch.global_ % repeats:
        yield Conflict(
            ("augment.repeats", "batch.global"),
            f"a batch of {s.batch.global_} cannot have each sample {repeats} times",
            f"set it to {gcd(repeats, s.batch.global_)}, or batch.global to a multiple of it",
        )
    elif s.data.lanes and different % s.data.lanes:
        each = f", each {repeats} times," if repeats > 1 else ""
        yield Conflict(
            ("data.lanes", "batch.global", "augment.repeats"),
            f"a batch of {different}{each} is not a multiple of {s.data.lanes} lanes",
            f"set data.lanes to {gcd(s.data.lanes, different)}",
        )
    begins = [begin for begin, _ in s.data.sizes]
    if begins and (begins[0] != 0 or begins != sorted(set(begins))):
        yield Conflict(
            ("data.sizes",),
            "its fractions of the run should begin at 0 and ascend",
            "write it like [[0, 128], [0.4, 160], [0.8, 176]]",
        )
    low, high = s.augment.scale
    if low > high or high == 0:
        yield Conflict(
            ("augment.scale",),
            f"[{low:g}, {high:g}] is not a range of areas",
            "give the least, then the most, above 0",
        )
    if s.data.mix and s.data.sampling == "balanced":
        yield Conflict(
            ("data.sampling", "data.mix"),
            "classes can be balanced within one training set only",
            "set data.sampling to natural, or data.mix to {}",
        )


def _loss(s: Settings) -> Iterator[Conflict]:
    for name, keys in LOSSES.items():
        given = [key for key in keys if getattr(s.loss, key) not in (None, False)]
        if given and name != s.loss.name:
            yield Conflict(
                (f"loss.{given[0]}", "loss.name"),
                f"only {name} has it, and loss.name is {s.loss.name}",
                f"set loss.name to {name}, or remove it",
            )
    spread = s.augment.label_smoothing / s.model.num_classes
    wrong, right = spread, 1.0 - s.augment.label_smoothing + spread
    threshold = s.loss.threshold
    if s.loss.name == "bce" and threshold is not None and not wrong <= threshold < right:
        yield Conflict(
            ("loss.threshold", "augment.label_smoothing"),
            f"label smoothing makes the targets of an image {right:.4g} and {wrong:.4g}, so all of "
            f"them become {int(threshold < wrong)}",
            f"set it to {wrong:.4g} or more, and below {right:.4g}",
        )
    if s.loss.teacher_model is not None and s.loss.teacher is None:
        yield Conflict(
            ("loss.teacher_model", "loss.teacher"),
            "there are no weights for it",
            "set loss.teacher to a file of its weights",
        )


def _schedule(s: Settings) -> Iterator[Conflict]:
    length = ("schedule.epochs", "schedule.steps")
    for key, epochs, steps in (
        ("schedule.warmup", s.schedule.warmup_epochs, s.schedule.warmup_steps),
        ("schedule.cooldown", s.schedule.cooldown_epochs, s.schedule.cooldown_steps),
        ("method.warmup", s.method.warmup_epochs, s.method.warmup_steps),
    ):
        total, warmup = _in_one_unit(s, epochs, steps)
        if warmup > total:
            unit = "epochs" if steps is None else "steps"
            yield Conflict(
                (f"{key}_{unit}", f"{key}_epochs", f"{key}_steps", *length),
                f"lasts {warmup:g} {unit}, the whole run {total:g}",
                "make it shorter",
            )
    yield from _decay(s)


def _decay(s: Settings) -> Iterator[Conflict]:
    schedule, keys = s.schedule, ("schedule.decay_epochs", "schedule.decay_steps", "schedule.name")
    decays = schedule.decay_steps or schedule.decay_epochs
    if schedule.name == "step" and not decays:
        yield Conflict(
            keys,
            "a step schedule needs to know when it decays",
            "set schedule.decay_epochs to, say, [30, 60, 80]",
        )
    if schedule.name == "wsd" and len(decays) != 1:
        yield Conflict(
            keys,
            f"a wsd schedule decays once, and {len(decays)} places are named",
            "set schedule.decay_epochs to, say, [80]",
        )
    own = SCHEDULES[schedule.name]
    for key in ("min_lr", "cooldown_epochs", "cooldown_steps"):
        if getattr(schedule, key) and key not in own:
            others = [name for name, keys in SCHEDULES.items() if key in keys]
            yield Conflict(
                (f"schedule.{key}", "schedule.name"),
                f"a {schedule.name} schedule has no such part",
                f"set it to 0, or schedule.name to {' or '.join(others)}",
            )
        elif getattr(schedule, key) and not schedule.min_lr:
            yield Conflict(
                (f"schedule.{key}", "schedule.min_lr"),
                "a cool-down at a learning rate of 0 learns nothing",
                "set schedule.min_lr above 0, or this to 0",
            )
    if decays and "decay_steps" not in own:
        yield Conflict(
            keys,
            f"a {schedule.name} schedule has no such decay",
            "remove it, or set schedule.name to step",
        )
    if schedule.min_lr > s.peak_lr:
        yield Conflict(
            ("schedule.min_lr", "optimizer.lr", "optimizer.base_batch", "batch.global"),
            f"{schedule.min_lr:g} is above the peak, {s.peak_lr:g}",
            "set it below that",
        )


def _in_one_unit(s: Settings, epochs: float, steps: int | None) -> tuple[float, float]:
    """The length of the run and a duration, in one unit; the duration is 0 if the units differ.

    Steps per epoch are known once the shards are open; ``Timeline.of`` checks the rest.
    """
    if s.schedule.steps is not None:
        return s.schedule.steps, steps or 0
    return s.schedule.epochs, 0 if steps is not None else epochs


def _method(s: Settings) -> Iterator[Conflict]:
    name, stage = s.method.name, s.deepspeed.zero_stage
    method = METHODS[name]
    if method.needs_whole_weights and stage == 3:
        yield Conflict(
            ("deepspeed.zero_stage", "method.name"),
            f"{name} needs whole gradients and whole weights on every rank, and stage 3 keeps only "
            "parts of them",
            "set deepspeed.zero_stage to 2",
        )
    yield from _window(s)
    if s.method.antithetic and not method.draws_noise:
        yield Conflict(
            ("method.antithetic", "method.name"),
            f"{name} draws no noise",
            "set method.antithetic to false",
        )
    if s.method.antithetic and stage == 3:
        yield Conflict(
            ("method.antithetic", "deepspeed.zero_stage"),
            "all ranks share one noise at stage 3",
            "set deepspeed.zero_stage to 2",
        )


def _window(s: Settings) -> Iterator[Conflict]:
    start, stop = s.method.start, s.method.stop
    for key, place in (("method.start", start), ("method.stop", stop)):
        if place == "decay" and s.schedule.name == "constant":
            yield Conflict(
                (key, "schedule.name"),
                "the learning rate of a constant schedule never decays",
                f"set {key} to a fraction of the run, or schedule.name to cosine or step",
            )
    backwards = isinstance(start, float) and isinstance(stop, float) and start > stop
    if stop != 0 and (start == stop or backwards):
        yield Conflict(
            ("method.stop", "method.start"),
            f"weights are perturbed from {start} to {stop} of the run, which is never",
            "set method.stop above method.start, or to 0 to never perturb",
        )
