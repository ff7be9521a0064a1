"""What a run measures about itself: losses on the device, times on the host."""

import resource
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple
from statistics import fmean, median
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from rwp_dist.data.batch import Step
from rwp_dist.data.remote import CacheStats
from rwp_dist.engine.sharding import uses_deepspeed, zero_stage
from rwp_dist.perturb.slots import Slot
from rwp_dist.perturb.stopwatch import Stopwatch
from rwp_dist.process.consensus import Agreed
from rwp_dist.run.flops import peak_tflops
from rwp_dist.run.parts import Parts


class Progress:
    """Counters of a run. Losses stay on the device until a log step asks for them."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.samples = 0
        self.train_s = self.device_seconds = 0.0
        self._wall_before_s = 0.0
        self._skipped_before = 0
        # Loss, correct and counted samples since the last log step; then summed losses of samples
        # at clean and at perturbed weights.
        self._sums = torch.zeros(5, device=parts.device)
        self._before_update = torch.zeros_like(self._sums)
        """In fp16: the sums as they were before this update."""
        # In fp16: clean and perturbed samples of skipped updates, and these updates.
        self._left_out = torch.zeros(3, dtype=torch.float64, device=parts.device)
        self.forward_watch = Stopwatch(parts.device)
        """Time of forward passes, in which no rank waits for another."""
        self._shown = {"loss": float("nan"), parts.task.headline: float("nan")}
        self._before_s: float | None = None
        """What an earlier attempt measured, in case this one has no step left to take."""
        self._step_s: deque[float] = deque(maxlen=100_000)
        self._perturb_share = 0.0
        self.diverges = False
        """What ``Watch.look`` said of the last record."""
        self.noise_backend_before: str | None = None
        """What drew the noise of an earlier attempt; None if there was none."""
        self._mark = self._began = time.perf_counter()
        self._start_interval()

    def start(self) -> None:
        """The first step of this attempt begins now."""
        self._mark = self._began = time.perf_counter()

    def _start_interval(self) -> None:
        self._interval_s = self._wait_s = 0.0
        self._interval_steps = self._interval_samples = self._interval_bytes = 0
        self._passed = [0, 0]  # samples at clean and at perturbed weights, of this rank
        self._passed_before = (0, 0)  # this update
        self._cache = CacheStats()

    def state_dict(self) -> dict[str, Any]:
        return {
            **self.spent(),
            "step_s": self._median_step_s(),
            "perturb_share": self._perturb_share,
            "shown": self._shown,
            "skipped_steps": self.skipped_steps,
            "diverges": self.diverges,
            "noise_backend": self._parts.perturbed.backend,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.samples, self.train_s = state["samples"], state["train_s"]
        # Checkpoints of 0.1 have neither of these two.
        at_least = self.train_s * self._parts.split.world_size
        self.device_seconds = state.get("device_seconds", at_least)
        self._wall_before_s = state.get("wall_s", self.train_s)
        self._before_s, self._perturb_share = state["step_s"], state["perturb_share"]
        self._shown = state["shown"]
        self._skipped_before = state["skipped_steps"]
        self.diverges = state.get("diverges", False)  # as earlier versions
        self.noise_backend_before = state["noise_backend"]

    def spent(self) -> dict[str, float]:
        """What the updates so far took, over all attempts (``tracking/columns.py``)."""
        return {
            "samples": self.samples,
            "train_s": self.train_s,
            "device_seconds": self.device_seconds,
            "wall_s": self._wall_before_s + time.perf_counter() - self._began,
        }

    @property
    def skipped_steps(self) -> int:
        """Steps whose gradient was not finite, over all attempts."""
        return self._skipped_before + self._parts.engine.skipped_steps

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time inside is spent waiting for data."""
        begin = time.perf_counter()
        yield
        self._wait_s += time.perf_counter() - begin

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time inside is not training: evaluation, checkpoints, reports."""
        begin = time.perf_counter()
        yield
        self._mark += time.perf_counter() - begin

    def observe(
        self, slot: Slot, loss: Tensor, logits: Tensor, labels: Tensor, weights: Tensor
    ) -> None:
        """Add a pass: its part of the update's loss, and its hits if its role counts for top-1.

        ``labels`` and ``weights`` are those of ``Classification.hits``.
        """
        with torch.no_grad():
            self._sums[0].add_(loss.detach() / self._parts.split.slots)
            if not (slot.perturbed and self._parts.method.mixed):
                hits = self._parts.task.hits(logits, labels, weights)
                self._sums[1].add_(hits[0].sum())
                self._sums[2].add_(weights.sum())

    def add_loss(self, total: Tensor, samples: int, *, perturbed: bool) -> None:
        """Add a forward pass and the backward pass of its own.

        Args:
            total: loss, summed over the samples that count.
            samples: how many these are.
            perturbed: whether the weights were perturbed.
        """
        with torch.no_grad():
            self._sums[3 + perturbed].add_(total.detach())
        self._passed[perturbed] += samples

    def after_step(self, applied: bool | Tensor) -> None:
        """Leave a skipped update out of the means in fp16, where it only lowers the loss scale.

        Its losses may be nan: SAM's ascent overflows, too. ``applied``: as the engine's ``step``
        returns it. Waits for no device.
        """
        if self._parts.engine.loss_scale is None:
            return
        applied = torch.as_tensor(applied, device=self._sums.device)
        self._sums.copy_(torch.where(applied, self._sums, self._before_update))
        self._before_update.copy_(self._sums)
        passed = [now - old for now, old in zip(self._passed, self._passed_before, strict=True)]
        for place, count in enumerate((*passed, 1)):
            self._left_out[place].add_(~applied, alpha=count)
        self._passed_before = (self._passed[0], self._passed[1])

    def step_done(self, data: Step, agreed: Agreed) -> None:
        """Count one update of all ranks."""
        now = time.perf_counter()
        seconds, self._mark = now - self._mark, now
        count = round(agreed.clean + agreed.perturbed)
        self.samples += count
        self._interval_bytes += data.num_bytes
        self._cache = self._cache + data.cache
        self.train_s += seconds
        self.device_seconds += seconds * self._parts.split.world_size
        self._step_s.append(seconds)
        self._interval_s += seconds
        self._interval_steps += 1
        self._interval_samples += count

    def train_record(self, done: int, bad_samples: int) -> dict[str, Any]:
        """Means since the last record, over all ranks; the slowest rank's times. A collective.

        Args:
            done: updates so far.
            bad_samples: samples that could not be read so far.
        """
        parts, steps = self._parts, max(self._interval_steps, 1)
        move = parts.perturbed.move
        adaptation = move.adaptation()
        perturb_s = parts.perturbed.watch.take() / steps
        own_s = perturb_s + self.forward_watch.take() / steps
        _, drawn_s, waited_s = move.take_times()
        dist.all_reduce(self._sums)
        loss, hits, counted, *losses = self._sums.tolist()
        slowest = [
            self._interval_s / steps,
            self._wait_s / steps,
            perturb_s,
            drawn_s / steps,
            move.num_bytes,
            memory_bytes(parts.device),
            own_s,
            -own_s,  # the most of these is the least of those
        ]
        *left_out, skipped = self._left_out.tolist()
        sums = [self._interval_bytes, drawn_s, waited_s, *self._passed, *left_out]
        sums += astuple(self._cache)
        step_s, wait_s, perturb_s, noise_s, noise_bytes, memory, most_s, minus_least_s = (
            self._over_ranks(slowest, dist.ReduceOp.MAX)
        )
        num_bytes, drawn_s, waited_s, clean, perturbed, no_clean, no_perturbed, *counts = (
            self._over_ranks(sums, dist.ReduceOp.SUM)
        )
        cache = CacheStats(*map(int, counts))
        opened = cache.hits + cache.misses
        self._perturb_share = perturb_s / step_s
        headline = 100.0 * hits / max(counted, 1.0)
        mean = loss / (steps - skipped) if steps > skipped else float("nan")
        self._shown = {"loss": mean, parts.task.headline: headline}
        step, total = done - 1, parts.timeline.total_steps
        strength = parts.timeline.strength(step)
        # Forward passes of stage 3 gather weights, and so wait for the other ranks.
        compares = parts.split.world_size > 1 and parts.engine.weights.whole
        record = {
            "step": done,
            "total_steps": total,
            "epoch": done / parts.timeline.steps_per_epoch,
            "samples": self.samples,
            **self._shown,
            "lr": parts.timeline.lr(step),
            "grad_norm": parts.engine.grad_norm(),
            "sigma": strength if parts.method.strength == "sigma" else 0.0,
            "rho": strength if parts.method.strength == "rho" else 0.0,
            **_losses(losses, [clean - no_clean, perturbed - no_perturbed]),
            "step_s": step_s,
            "step_spread": (most_s + minus_least_s) / step_s if compares else None,
            "images_per_s": self._interval_samples / steps / step_s,
            **self._work(done, (clean + perturbed) / steps / step_s),
            "data_wait_s": wait_s,
            "data_wait_share": wait_s / step_s,
            "bytes_per_s": num_bytes / steps / step_s,
            "cache_hits": cache.hits / opened if opened else None,
            "cache_evictions": cache.evictions,
            "download_bytes_per_s": cache.bytes_downloaded / steps / step_s,
            "download_retries": cache.retries,
            "bad_samples": bad_samples,
            "perturb_s": perturb_s,
            "perturb_share": perturb_s / step_s,
            "noise_s": noise_s,
            "noise_hidden": max(1.0 - waited_s / drawn_s, 0.0) if drawn_s else None,
            "noise_bytes": int(noise_bytes),
            "memory_bytes": int(memory),
            "skipped_steps": self.skipped_steps,
            "adaptation": float(adaptation) if adaptation is not None else None,
            "eta_s": (total - done) * step_s,
        }
        for sums_on_device in (self._sums, self._before_update, self._left_out):
            sums_on_device.zero_()
        self._start_interval()
        return record

    def _over_ranks(self, numbers: list[float], how: dist.ReduceOp.RedOpType) -> list[float]:
        """Sums or maxima over ranks of numbers of the host. A collective."""
        shared = torch.tensor(numbers, dtype=torch.float64, device=self._parts.device)
        dist.all_reduce(shared, how)
        return shared.tolist()

    def _work(self, done: int, passed_per_s: float) -> dict[str, float | None]:
        """``tflops`` and ``mfu`` from the images that all ranks passed forward and backward per s.

        An image of an update of sam passes twice.
        """
        parts, tflops, mfu = self._parts, None, None
        steps = range(done - max(self._interval_steps, 1), done)  # images may change their size
        flops = [each for each in map(parts.flops_per_image, steps) if each is not None]
        if flops:
            tflops = fmean(flops) * passed_per_s / parts.split.world_size / 1e12
            peak = peak_tflops(parts.device, parts.settings.precision)
            mfu = tflops / peak if peak else None
        return {"tflops": tflops, "mfu": mfu}

    def _median_step_s(self) -> float | None:
        """Of this attempt's steps; an earlier one's if this has taken none."""
        return median(self._step_s) if self._step_s else self._before_s

    def summary(
        self, last_eval: Mapping[str, float | None], bad_samples: int, session: str
    ) -> dict[str, Any]:
        """The run in numbers, for ``summary.json`` and ``rwp-dist compare``."""
        parts, s = self._parts, self._parts.settings
        return {
            "state": "finished",
            "name": s.run.name,
            "label": s.run.label,
            "method": s.method.name,
            "seed": s.run.seed,
            "session": session,
            "model": s.model.name,
            "num_parameters": parts.engine.num_parameters,
            "world_size": parts.split.world_size,
            "device": parts.device.type,
            "engine": "deepspeed" if uses_deepspeed(s) else "ddp",
            "zero_stage": zero_stage(s),
            "steps": parts.timeline.total_steps,
            "epochs": parts.timeline.total_steps / parts.timeline.steps_per_epoch,
            "passes_per_step": parts.method.passes,
            **self.spent(),
            "step_s": self._median_step_s(),
            "perturb_share": self._perturb_share,
            "train_loss": self._shown["loss"],
            f"train_{parts.task.headline}": self._shown[parts.task.headline],
            "loss": last_eval.get("loss"),
            **{name: last_eval.get(name) for name in parts.task.metrics},
            **{
                n: x
                for n, x in last_eval.items()
                if n.startswith(("average_", "trained_")) and x is not None
            },
            "bad_samples": bad_samples,
            "eval_bad_samples": last_eval.get("bad_samples", 0),
            "skipped_steps": self.skipped_steps,
            "method_settings": s.method.model_dump(by_alias=True, mode="json"),
        }


def _losses(sums: list[float], samples: list[float]) -> dict[str, float | None]:
    """Mean losses at clean and at perturbed weights, from sums over samples, and the gap."""
    clean, perturbed = (s / n if n else None for s, n in zip(sums, samples, strict=True))
    gap = None if clean is None or perturbed is None else perturbed - clean
    return {"clean_loss": clean, "perturbed_loss": perturbed, "loss_gap": gap}


def memory_bytes(device: torch.device) -> int:
    """Peak memory of this process on its device, in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
