"""Settings that a run has no use for, because of what other settings name.

A run may state them; a sweep does not train once for each of their values.
"""

from rwp_dist.config.keys import known_keys, setting_of
from rwp_dist.config.tree import AVERAGES, OPTIMIZERS, Average, Settings
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
    for name, keys in OPTIMIZERS.items():
        if name != s.optimizer.name:
            unused |= {f"optimizer.{key}" for key in keys}
    if s.optimizer.name in OPTIMIZERS:
        unused.add("optimizer.options")
    for average, own in AVERAGES.items():
        if average != s.average.name:
            unused |= {f"average.{key}" for key in own}
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
    if s.schedule.name != "step":
        unused |= {"schedule.gamma", "schedule.decay_epochs", "schedule.decay_steps"}
    for key, steps in (
        ("schedule.epochs", s.schedule.steps),
        ("schedule.warmup_epochs", s.schedule.warmup_steps),
        ("schedule.decay_epochs", s.schedule.decay_steps),
        ("method.warmup_epochs", s.method.warmup_steps),
    ):
        if steps is not None:
            unused.add(key)
    return frozenset(unused)
