"""Settings that a run has no use for, because of what other settings name.

A run may state them; a sweep does not train once for each of their values.
"""

from collections.abc import Mapping

from rwp_dist.config.keys import known_keys, setting_of
from rwp_dist.config.tree import AVERAGES, LOSSES, OPTIMIZERS, SCHEDULES, Average, Settings
from rwp_dist.perturb.methods import METHODS


def uses(settings: Settings, key: str) -> bool:
    """Whether a run does anything with a setting, or with a part of it."""
    known = setting_of(key)
    return known is None or known.name not in unused_keys(settings)


def unused_keys(settings: Settings) -> frozenset[str]:
    """The keys of settings that do not count beside the others."""
    s, method = settings, METHODS[settings.method.name]
    unused = {
        key
        for key in known_keys()
        if key.startswith("method.") and key.removeprefix("method.") not in method.settings
    }
    if not method.draws_noise:
        unused |= {"noise.backend", "noise.prefetch"}
    grows = {"increase": True, "auto": method.increasing}.get(s.method.sigma_schedule, False)
    if not grows:
        unused.add("method.sigma_increase")
    unused |= _of_others(OPTIMIZERS, s.optimizer.name, "optimizer")
    if s.optimizer.name in OPTIMIZERS:
        unused.add("optimizer.options")
    unused |= _of_others(LOSSES, s.loss.name, "loss")
    if s.loss.teacher is None:
        unused |= {"loss.teacher_model", "loss.temperature", "loss.alpha"}
    unused |= _of_others(AVERAGES, s.average.name, "average")
    if s.average.name == "none":
        unused |= {f"average.{key}" for key in Average.model_fields if key != "name"}
    if s.data.mix:
        unused.add("data.train")
    if s.augment.crop != "random_resized":
        unused.add("augment.scale")
    if s.augment.crop != "pad":
        unused.add("augment.pad")
    if s.augment.auto != "randaugment":
        unused |= {"augment.num_ops", "augment.magnitude"}
    if s.augment.auto != "augmix":
        unused.add("augment.severity")
    unused |= _of_others(SCHEDULES, s.schedule.name, "schedule")
    if not (s.schedule.warmup_epochs or s.schedule.warmup_steps):
        unused.add("schedule.warmup_from")
    for key, steps in (
        ("schedule.epochs", s.schedule.steps),
        ("schedule.warmup_epochs", s.schedule.warmup_steps),
        ("schedule.cooldown_epochs", s.schedule.cooldown_steps),
        ("schedule.decay_epochs", s.schedule.decay_steps),
        ("method.warmup_epochs", s.method.warmup_steps),
    ):
        if steps is not None:
            unused.add(key)
    return frozenset(unused)


def _of_others(table: Mapping[str, tuple[str, ...]], name: str, section: str) -> set[str]:
    """Keys of a section that other entries of a table have for themselves, and this one has not."""
    others = {key for keys in table.values() for key in keys} - {*table.get(name, ())}
    return {f"{section}.{key}" for key in others}
