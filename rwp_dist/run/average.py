"""Averages of the clean weights along a run: EMA, SWA and LAWA.

``torch.optim.swa_utils.AveragedModel`` copies a module, which DeepSpeed's hooks do not survive, and
reads its counter on the host in each update, which would wait for a GPU.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rwp_dist.base.errors import ConfigError
from rwp_dist.config import Settings
from rwp_dist.config.tree import Average as AverageSettings
from rwp_dist.engine.engine import Engine
from rwp_dist.run.timeline import Timeline


def ema_share(count: Tensor, decay: float, *, warmup: bool) -> Tensor:
    """``1 - min(decay, (1 + n) / (10 + n))`` for the n-th weights that an EMA takes; 1 for n = 0.

    ``a <- a + share (w - a)``. The warm-up is that of TensorFlow's ``ExponentialMovingAverage``.
    """
    most = torch.full((), decay, dtype=torch.float64, device=count.device)
    kept = torch.minimum(most, (1.0 + count) / (10.0 + count)) if warmup else most
    return torch.where(count == 0, 1.0, 1.0 - kept)


def mean_share(count: Tensor) -> Tensor:
    """``1 / (n + 1)``: the mean of all weights (SWA; Izmailov et al., UAI 2018, 1803.05407)."""
    return 1.0 / (count + 1.0)


class Average(ABC):
    """Some average of weights, on one device. ``count``: of the weights that it has taken."""

    def __init__(self, device: torch.device) -> None:
        self.count = torch.zeros((), dtype=torch.float64, device=device)

    def take(self, weights: list[Tensor], applied: Tensor) -> None:
        """Add weights if ``applied``, a tensor of one bool, is true. Waits for no device."""
        self._take(weights, applied)
        self.count += applied

    @abstractmethod
    def _take(self, weights: list[Tensor], applied: Tensor) -> None: ...

    @abstractmethod
    def value(self, count: int) -> list[Tensor]:
        """The average of what was taken; ``count``: as the host knows it, at least 1."""

    def kept(self, count: int) -> list[Tensor]:
        """What a checkpoint needs beside the average."""
        return []

    @abstractmethod
    def load(self, count: int, value: Sequence[Tensor], kept: Sequence[Tensor]) -> None:
        """Take over ``value`` and ``kept``."""


class RunningAverage(Average):
    """``a <- a + share(n) (w - a)``: one copy of the weights."""

    def __init__(
        self, shapes: Sequence[Tensor], device: torch.device, share: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__(device)
        self._value, self._share = [torch.zeros_like(w, device=device) for w in shapes], share

    def _take(self, weights: list[Tensor], applied: Tensor) -> None:
        share = (self._share(self.count) * applied).to(self._value[0].dtype)
        # _foreach_lerp_ takes a number, which the host would wait for, or a tensor of each shape.
        change = torch._foreach_sub(weights, self._value)
        torch._foreach_mul_(change, share)
        torch._foreach_add_(self._value, change)

    def value(self, count: int) -> list[Tensor]:
        return self._value

    def load(self, count: int, value: Sequence[Tensor], kept: Sequence[Tensor]) -> None:
        self.count.fill_(count)
        for mine, saved in zip(self._value, value, strict=True):
            mine.copy_(saved)


class NewestAverage(Average):
    """The mean of the newest weights (LAWA; Kaddour, 2022, arXiv 2209.14981).

    They lie in a ring, ``[newest, ...]`` for each parameter.
    """

    def __init__(self, shapes: Sequence[Tensor], device: torch.device, newest: int) -> None:
        super().__init__(device)
        self._newest = newest
        self._rings = [w.new_zeros((newest, *w.shape), device=device) for w in shapes]

    def _take(self, weights: list[Tensor], applied: Tensor) -> None:
        place = (self.count % self._newest).long()[None]
        for ring, weight in zip(self._rings, weights, strict=True):
            old = ring.index_select(0, place)
            ring.index_copy_(0, place, torch.where(applied, weight, old))

    def value(self, count: int) -> list[Tensor]:
        places = self._places(count)
        means = []
        for ring in self._rings:
            mean = ring[places[0]].clone()
            for place in places[1:]:
                mean += ring[place]
            means.append(mean.div_(len(places)))
        return means

    def _places(self, count: int) -> list[int]:
        """Where the newest weights lie, the oldest first, so that they are always summed alike."""
        return [n % self._newest for n in range(max(count - self._newest, 0), count)]

    def kept(self, count: int) -> list[Tensor]:
        return [ring[self._places(count)] for ring in self._rings]

    def load(self, count: int, value: Sequence[Tensor], kept: Sequence[Tensor]) -> None:
        # A smaller ring kept fewer than belong here: the other places are empty.
        count = count if len(kept[0]) >= self._newest else len(kept[0])
        self.count.fill_(count)
        places = self._places(count)
        for ring, saved in zip(self._rings, kept, strict=True):
            ring[places] = saved[-len(places) :].to(ring.device)


@dataclass(frozen=True)
class Kind:
    """An average that a run can ask for."""

    build: Callable[[AverageSettings, Sequence[Tensor], torch.device], Average]
    """From the settings, tensors with the shapes of the weights, and where it is kept."""
    start: float = 0.0
    """Fraction of the run that it leaves out unless told otherwise."""
    each_epoch: bool = True
    """Whether it takes weights once an epoch unless told otherwise; else after each update."""
    copies: Callable[[AverageSettings], int] = lambda a: 1
    """How often it keeps the weights."""


def _ema(a: AverageSettings, shapes: Sequence[Tensor], device: torch.device) -> Average:
    return RunningAverage(shapes, device, partial(ema_share, decay=a.decay, warmup=a.warmup))


def _swa(a: AverageSettings, shapes: Sequence[Tensor], device: torch.device) -> Average:
    return RunningAverage(shapes, device, mean_share)


def _lawa(a: AverageSettings, shapes: Sequence[Tensor], device: torch.device) -> Average:
    return NewestAverage(shapes, device, a.newest)


KINDS = {
    "ema": Kind(_ema, each_epoch=False),
    "swa": Kind(_swa, start=0.75),  # its paper's
    "lawa": Kind(_lawa, copies=lambda a: a.newest),
}
"""Every average by its name in the settings (``config.tree.AVERAGES``)."""


class AverageOfWeights:
    """The ``Extra`` that takes the trained weights after updates that are due."""

    def __init__(self, settings: Settings, engine: Engine, timeline: Timeline) -> None:
        """
        Raises:
            ConfigError: no update is due.
        """
        a, kind = settings.average, KINDS[settings.average.name]
        start, epoch = kind.start if a.start is None else a.start, timeline.steps_per_epoch
        self._every = a.every or (epoch if kind.each_epoch else 1)
        self._start, total = round(start * timeline.total_steps), timeline.total_steps
        if total // self._every * self._every <= self._start:
            raise ConfigError(
                f"no weights are averaged: every {self._every} steps from step {self._start} on, "
                f"and the run has {total} steps (an epoch has {epoch})",
                key="average.every",
                cure="make it smaller, or average.start",
            )
        self._name, self._is_result = a.name, a.result == "average"
        self._params = engine.trained
        weights = [p.detach() for p in self._params.values()]
        here = weights[0].device
        device = torch.device("cpu") if a.device == "cpu" else here
        self._average = kind.build(a, weights, device)
        self._true = torch.ones((), dtype=torch.bool, device=here)
        self._crossing = _Crossing() if device != here else None
        """Between the GPU and main memory."""
        self._loaded = False

    def after_step(self, step: int, applied: bool | Tensor) -> None:
        self._arrive()
        if step <= self._start and self._loaded:  # a run that became longer begins anew
            self._average.count.zero_()
        if step < self._start or (step + 1) % self._every or applied is False:
            return
        weights = [p.detach() for p in self._params.values()]
        known = self._true if applied is True else applied
        assert isinstance(known, Tensor)
        if self._crossing is not None:
            self._crossing.send([*weights, known])
        else:
            with torch.no_grad():
                self._average.take(weights, known)

    def _arrive(self) -> None:
        """Take the weights that were on their way from the GPU."""
        if self._crossing is not None and (arrived := self._crossing.receive()):
            *weights, applied = arrived
            self._average.take(weights, applied)

    def state_dict(self) -> dict[str, Any]:
        """Nothing to evaluate before the first weights were taken."""
        self._arrive()
        count = int(self._average.count)
        state: dict[str, Any] = {"name": self._name, "count": count}
        if count:
            for where, weights in self.evaluated().items():
                state[where] = self._on_cpu(list(weights.values()))
            state["kept"] = self._on_cpu(self._average.kept(count))
        return state

    def evaluated(self) -> dict[str, dict[str, Tensor]]:
        self._arrive()
        count = int(self._average.count)
        if not count:
            return {}
        where = "weights" if self._is_result else "beside"
        return {where: dict(zip(self._params, self._average.value(count), strict=True))}

    def _on_cpu(self, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        named = zip(self._params, tensors, strict=False)  # nothing, or one for each parameter
        return {name: tensor.cpu().clone() for name, tensor in named}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the state of the same kind of average; another begins anew."""
        if state["name"] != self._name or not state["count"]:
            return
        value = state.get("weights") or state["beside"]
        kept = [state["kept"][name] for name in self._params if state["kept"]]
        self._average.load(state["count"], [value[name] for name in self._params], kept)
        self._loaded = True


class _Crossing:
    """Tensors on their way from the GPU to main memory, while both go on."""

    def __init__(self) -> None:
        self._buffers: list[Tensor] = []
        self._sent: torch.cuda.Event | None = None

    def send(self, tensors: Sequence[Tensor]) -> None:
        if not self._buffers:
            self._buffers = [torch.empty_like(t, device="cpu").pin_memory() for t in tensors]
        for buffer, tensor in zip(self._buffers, tensors, strict=True):
            buffer.copy_(tensor, non_blocking=True)
        self._sent = torch.cuda.Event()
        self._sent.record()

    def receive(self) -> list[Tensor]:
        """What was sent last, once: waits until it is here. Empty: nothing was sent."""
        if self._sent is None:
            return []
        self._sent.synchronize()
        self._sent = None
        return self._buffers


def build_average(
    settings: Settings, engine: Engine, timeline: Timeline
) -> AverageOfWeights | None:
    """The settings' average; None if they ask for none."""
    if settings.average.name == "none":
        return None
    return AverageOfWeights(settings, engine, timeline)


def average_bytes(settings: Settings, weight_bytes: float, *, on_gpus: bool) -> dict[str, float]:
    """Memory of a rank's device for the average; nothing if there is none, or not there."""
    a = settings.average
    if a.name == "none" or (a.device == "cpu" and on_gpus):
        return {}
    return {"average of the weights": weight_bytes * KINDS[a.name].copies(a)}
