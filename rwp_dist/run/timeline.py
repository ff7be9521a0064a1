"""Durations in steps, the learning rate and the noise level along them. Imports no torch."""

import math
from dataclasses import dataclass

from rwp_dist.base.errors import ConfigError
from rwp_dist.config import Settings
from rwp_dist.perturb.methods import METHODS, sigma_at


@dataclass(frozen=True)
class Timeline:
    """Every duration of a run in steps (updates of the weights)."""

    settings: Settings
    steps_per_epoch: int
    total_steps: int
    warmup_steps: int
    decay_steps: tuple[int, ...]
    noise_warmup_steps: int

    @classmethod
    def of(cls, settings: Settings, steps_per_epoch: int) -> "Timeline":
        """Convert the settings' epochs with the number of steps that an epoch has.

        Raises:
            ConfigError: a warm-up lasts longer than the run.
        """

        def steps(epochs: float, given: int | None) -> int:
            return given if given is not None else round(epochs * steps_per_epoch)

        s = settings.schedule
        decay = s.decay_steps
        if decay is None:
            decay = tuple(steps(epoch, None) for epoch in s.decay_epochs)
        total = max(steps(s.epochs, s.steps), 1)

        def warmup(section: str, epochs: float, given: int | None) -> int:
            lasts = steps(epochs, given)
            if lasts > total:
                unit = "epochs" if given is None else "steps"
                most = (
                    total if given is not None else math.floor(1e3 * total / steps_per_epoch) / 1e3
                )
                raise ConfigError(
                    f"{section}.warmup_{unit}: lasts {lasts} steps and the whole run {total} (an "
                    f"epoch has {steps_per_epoch}); set it to {most:g} or less."
                )
            return lasts

        m = settings.method
        return cls(
            settings=settings,
            steps_per_epoch=steps_per_epoch,
            total_steps=total,
            warmup_steps=warmup("schedule", s.warmup_epochs, s.warmup_steps),
            decay_steps=decay,
            noise_warmup_steps=warmup("method", m.warmup_epochs, m.warmup_steps),
        )

    def lr(self, step: int) -> float:
        """Learning rate of one step, counted from 0."""
        peak = self.settings.optimizer.lr
        if step < self.warmup_steps:
            return peak * (step + 1) / self.warmup_steps
        s = self.settings.schedule
        if s.name == "cosine":
            rest = max(self.total_steps - self.warmup_steps, 1)
            return peak * 0.5 * (1.0 + math.cos(math.pi * (step - self.warmup_steps) / rest))
        return float(peak * s.gamma ** sum(step >= at for at in self.decay_steps))

    def sigma(self, step: int) -> float:
        """Noise level of one step; 0 for methods without noise."""
        m = self.settings.method
        method = METHODS[m.name]
        if method.direction != "noise":
            return 0.0
        return sigma_at(
            step,
            self.total_steps,
            m.sigma,
            schedule=method.sigma_schedule if m.sigma_schedule == "auto" else m.sigma_schedule,
            increase=m.sigma_increase,
            warmup_steps=self.noise_warmup_steps,
        )

    def is_due(self, every_epochs: float, steps_done: int) -> bool:
        """Whether something that happens every so many epochs, and at the end, is due now.

        0 epochs: at the end only. Less than a step's worth of an epoch: after every step.
        """
        if steps_done == self.total_steps:
            return True
        every = max(round(every_epochs * self.steps_per_epoch), 1)
        return every_epochs > 0 and steps_done % every == 0
