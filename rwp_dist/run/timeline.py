"""Durations in steps; the learning rate and the strength of the perturbation along them.

Imports no torch.
"""

import math
from dataclasses import dataclass

from rwp_dist.base.errors import ConfigError
from rwp_dist.config import Settings
from rwp_dist.perturb import METHODS, increasing
from rwp_dist.run.schedules import SCHEDULES, Span, learning_rate


@dataclass(frozen=True)
class Timeline:
    """Every duration of a run in steps (updates of the weights)."""

    settings: Settings
    steps_per_epoch: int
    total_steps: int
    span: Span
    """Of the learning rate."""
    clean_steps: int
    """Warm-up of the perturbation: the first steps, in which it has strength 0."""

    @classmethod
    def of(cls, settings: Settings, steps_per_epoch: int) -> "Timeline":
        """Convert the settings' epochs with the number of steps that an epoch has.

        Raises:
            ConfigError: a part of the run is longer than the run, or no step of it is perturbed
                although the method perturbs.
        """

        def steps(epochs: float, given: int | None) -> int:
            return given if given is not None else round(epochs * steps_per_epoch)

        s, m = settings.schedule, settings.method
        decay = s.decay_steps
        if decay is None:
            decay = tuple(steps(epoch, None) for epoch in s.decay_epochs)
        total = s.total_steps(steps_per_epoch)
        cooldown = steps(s.cooldown_epochs, s.cooldown_steps)
        for key, epochs, given, longest in (
            ("schedule.cooldown", s.cooldown_epochs, s.cooldown_steps, total),
            ("schedule.warmup", s.warmup_epochs, s.warmup_steps, total - cooldown),
            ("method.warmup", m.warmup_epochs, m.warmup_steps, total - 1),
        ):
            lasts = steps(epochs, given)
            if lasts > longest:
                in_epochs = math.floor(1e3 * longest / steps_per_epoch) / 1e3
                most = in_epochs if given is None else longest
                is_shared = cooldown and key == "schedule.warmup"
                rest = f", {cooldown} of them cool-down" if is_shared else ""
                raise ConfigError(
                    f"lasts {lasts} steps and the whole run {total}{rest} (an epoch has "
                    f"{steps_per_epoch})",
                    key=f"{key}_{'epochs' if given is None else 'steps'}",
                    cure=f"set it to {most:g} or less",
                )
        warmup = steps(s.warmup_epochs, s.warmup_steps)
        if s.name == "wsd" and not warmup <= min(decay) < total:
            raise ConfigError(
                f"is step {min(decay)}, and the run has {total}, {warmup} of them warm-up (an "
                f"epoch has {steps_per_epoch})",
                key=f"schedule.decay_{'epochs' if s.decay_steps is None else 'steps'}",
                cure="begin the decay after warm-up and before the end",
            )
        timeline = cls(
            settings=settings,
            steps_per_epoch=steps_per_epoch,
            total_steps=total,
            span=Span(
                peak=settings.peak_lr,
                low=s.min_lr,
                warmup=warmup,
                decays=decay,
                end=total - cooldown,
                gamma=s.gamma,
                power=s.power,
            ),
            clean_steps=steps(m.warmup_epochs, m.warmup_steps),
        )
        timeline._check_some_step_is_perturbed()
        return timeline

    def _check_some_step_is_perturbed(self) -> None:
        m = self.settings.method
        strength = METHODS[m.name].strength
        wanted = strength is not None and getattr(m, strength) > 0 and m.stop != 0
        # The first step that may be perturbed; a loop over all would take long in a long run.
        first = -(-max(self.clean_steps, self._at(m.start)) // m.every) * m.every
        if wanted and not (first < self.total_steps and self.strength(first)):
            raise ConfigError(
                f"no step is perturbed: of {self.total_steps} steps, warm-up leaves the first "
                f"{self.clean_steps} clean, method.start and method.stop are steps "
                f"{self._at(m.start)} and {self._at(m.stop)}, and method.every is {m.every}",
                key="method",
                cure="change these, or set method.stop to 0 to never perturb",
            )

    def lr(self, step: int) -> float:
        """Learning rate of one step, counted from 0."""
        return learning_rate(self.settings, self.span, step)

    @property
    def decay_start(self) -> int:
        """First step at which the learning rate falls; the end of the run if it never does."""
        start = SCHEDULES[self.settings.schedule.name].decay_start
        return self.total_steps if start is None else start(self.span)

    def strength(self, step: int) -> float:
        """sigma or rho of one step: how far a perturbed pass goes. 0: the pass is clean."""
        m = self.settings.method
        method = METHODS[m.name]
        first, behind = self._at(m.start), self._at(m.stop)
        if method.strength is None or step < self.clean_steps or step % m.every:
            return 0.0
        if not first <= step < behind:
            return 0.0
        if method.strength == "rho":
            return m.rho
        grows = method.increasing if m.sigma_schedule == "auto" else m.sigma_schedule == "increase"
        if grows:
            return increasing(m.sigma, m.sigma_increase, step, self.total_steps)
        return m.sigma

    def _at(self, place: float | str) -> int:
        """A fraction of the run, or ``decay``, as a step."""
        if isinstance(place, str):
            return self.decay_start
        return round(place * self.total_steps)

    def is_due(self, every_epochs: float, steps_done: int) -> bool:
        """Whether something that happens every few epochs, and at the end, is due now.

        0 epochs: at the end only. Less than a step's worth of an epoch: after every step.
        """
        return self.steps_until(every_epochs, steps_done - 1) == 1

    def steps_until(self, every_epochs: float, steps_done: int) -> int:
        """How many steps after ``steps_done`` it is due next, 1 or more."""
        every = max(round(every_epochs * self.steps_per_epoch), 1) if every_epochs else 0
        rest = self.total_steps - steps_done
        return min(rest, every - steps_done % every) if every else rest
