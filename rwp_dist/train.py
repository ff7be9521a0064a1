"""The loop, on one page: what a run does, and what one step does.

for every step:
    for every slot of this rank (clean ones first):
        perturb the weights, if the slot is perturbed
        forward, weighted loss, backward       the last backward reduces gradients
    optimizer's step                           clean weights come back
    log, evaluate, save when due
"""

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from rwp_dist.checkpoint import check_state, load_checkpoint, save_checkpoint
from rwp_dist.config import Settings
from rwp_dist.consensus import Agreed, Consensus, StopSignals
from rwp_dist.data.bad import BadSamples
from rwp_dist.data.batch import Batch, Step
from rwp_dist.distributed import check_replicas, from_main, same_on_all_ranks
from rwp_dist.errors import Interrupted
from rwp_dist.evaluate import evaluate, evaluating, recalibrate
from rwp_dist.perturb.batchnorm import average_statistics, tracking_layers
from rwp_dist.perturb.noise import key_seed
from rwp_dist.perturb.roles import Slot, loss_scale
from rwp_dist.progress import Progress
from rwp_dist.rundir import RunDir
from rwp_dist.setup import Parts, build_parts
from rwp_dist.start import open_run
from rwp_dist.tracking import open_tracker


def train(settings: Settings, session: str = "") -> dict[str, Any]:
    """Train one run to its end, from its newest checkpoint if there is one; returns its summary.

    Every rank calls it, inside a process group.

    Args:
        settings: everything the run depends on.
        session: runs with one session's name took turns on the same machine, so that their step
            times may be compared.

    Raises:
        RwpError: data, settings or checkpoints are not what they should be, on any rank.
        Interrupted: a signal ended the run after a checkpoint.
    """
    with same_on_all_ranks():
        run_dir = open_run(settings)
    finished = from_main(run_dir.read_summary)
    if finished:
        return finished
    with same_on_all_ranks():
        parts = build_parts(settings)
    try:
        return Training(parts, run_dir).run(session)
    finally:
        parts.engine.close()


class Training:
    """One attempt at a run: where it stands, and what happens between its steps."""

    def __init__(self, parts: Parts, run_dir: RunDir) -> None:
        self.parts, self.run_dir = parts, run_dir
        self.is_main = dist.get_rank() == 0
        resumed = load_checkpoint(run_dir.checkpoints, parts.engine, parts.perturbation)
        self.first_step, counters = resumed or (0, {})
        self.done = self.first_step
        """Updates of the weights so far."""
        self.last_eval: dict[str, float] = counters.get("eval", {})
        check_state(counters.get("data"), parts.train.state())
        self.bad = BadSamples(
            run_dir.path, parts.settings.data.max_bad_samples, counters.get("bad_samples", 0)
        )
        self.progress = Progress(parts, counters)
        self.tracker = open_tracker(
            parts.settings,
            run_dir,
            total_steps=parts.timeline.total_steps,
            first_step=self.first_step,
            is_main=self.is_main,
        )

    def run(self, session: str) -> dict[str, Any]:
        """Steps until the run is finished; returns its summary.

        Raises:
            Interrupted: a signal, or W&B's stop button, ended it after a checkpoint.
        """
        started, state = datetime.now(timezone.utc), "failed"
        total = self.parts.timeline.total_steps
        with StopSignals() as signals:
            try:
                with self.tracker:
                    if self.first_step:
                        self.tracker.say(f"resumed after step {self.first_step:,} of {total:,}")
                    finished = self._loop(signals)
                    summary = self.progress.summary(self.last_eval, session)
                    if finished and self.is_main:
                        self.run_dir.write_summary(summary)
                        self.tracker.finish(summary)
                    state = "finished" if finished else "interrupted"
            finally:
                if self.is_main:
                    self.run_dir.write_status(state, self.done, total)
                    self.run_dir.append_attempt(started, state, self.first_step, self.done)
            dist.barrier()  # the first rank to leave would have the others killed
        if not finished:
            raise Interrupted(
                f"Stopped after step {self.done:,} of {total:,} and saved in {self.run_dir.path}; "
                "start the same command again to go on."
            )
        return summary

    def _loop(self, signals: StopSignals) -> bool:
        """All steps that are left; False if it was asked to stop."""
        parts, total = self.parts, self.parts.timeline.total_steps
        data = parts.train.steps(self.first_step, total)
        consensus = Consensus()
        self.progress.start()
        coming = self._fetch(data, consensus, signals)
        for step in range(self.first_step, total):
            batches, agreed = coming, consensus.take()
            if agreed.stop:
                self._save()
                return False
            self.bad.count(batches.bad, agreed)
            train_step(parts, step, batches, agreed, self.progress)
            # While a GPU still computes, the next step's samples are fetched and agreed upon.
            if step + 1 < total:
                coming = self._fetch(data, consensus, signals)
            self.progress.step_done(batches, agreed)
            self.done = step + 1
            self.tracker.advance(self.done)
            with self.progress.paused():
                self._between_steps()
        consensus.close()
        return True

    def _fetch(self, data: Iterator[Step], consensus: Consensus, signals: StopSignals) -> Step:
        """The next step's samples; what this rank knows of them goes to all ranks."""
        with self.progress.waiting():
            step = next(data)
        roles = list(zip(self.parts.my_slots, step.valid, strict=True))
        consensus.post(
            clean=sum(valid for slot, valid in roles if not slot.perturbed),
            perturbed=sum(valid for slot, valid in roles if slot.perturbed),
            bad=len(step.bad),
            stop=signals.asked or self.tracker.stop_requested,
        )
        return step

    def _between_steps(self) -> None:
        """Check, log, evaluate and save, each when it is due."""
        settings, timeline, done = self.parts.settings, self.parts.timeline, self.done
        every = settings.run.check_replicas_every
        if every and done % every == 0:
            check_replicas(self.parts.engine.module, done)
        if done % settings.tracking.log_every == 0 or done == timeline.total_steps:
            self.tracker.log_train(self.progress.train_record(done))
            if self.is_main:
                self.run_dir.write_status("running", done, timeline.total_steps)
        if timeline.is_due(settings.evaluation.every_epochs, done):
            self.last_eval = evaluate_now(self.parts)
            epoch = done / timeline.steps_per_epoch
            self.tracker.log_eval({"step": done, "epoch": epoch} | self.last_eval)
        if timeline.is_due(settings.checkpoint.every_epochs, done):
            self._save()

    def _save(self) -> None:
        refresh_statistics(self.parts)
        self.progress.bad_samples = self.bad.total
        save_checkpoint(
            self.run_dir.checkpoints,
            self.parts.engine,
            self.parts.perturbation,
            step=self.done,
            progress=self.progress.counters()
            | {"eval": self.last_eval, "data": self.parts.train.state()},
            keep_last=self.parts.settings.checkpoint.keep_last,
        )


def train_step(parts: Parts, step: int, data: Step, agreed: Agreed, progress: Progress) -> None:
    """One update of the weights from this rank's micro-batches.

    ``agreed`` says how many samples of each role all ranks have for it.
    """
    engine, perturbation = parts.engine, parts.perturbation
    # Dropout and the like: a function of (seed, step, rank), so that resuming repeats it.
    torch.manual_seed(key_seed(parts.settings.run.seed, step, -1, dist.get_rank()))

    for slot, batch, valid in zip(parts.my_slots, data.batches, data.valid, strict=True):
        scale = loss_scale(slot, parts.split.slots, agreed.clean, agreed.perturbed)
        train_pass(parts, step, slot, batch.to(engine.device), valid, scale, progress)

    if perturbation.energy is not None:
        perturbation.energy.reduce()
    applied = engine.step(parts.timeline.lr(step))
    if perturbation.energy is not None:
        perturbation.energy.update(applied)


def train_pass(
    parts: Parts,
    step: int,
    slot: Slot,
    batch: Batch,
    valid: int,
    scale: float,
    progress: Progress,
) -> None:
    """Forward and backward of one micro-batch, at clean or at perturbed weights.

    ``valid``: its samples that count. ``scale``: factor of their summed loss.
    """
    engine = parts.engine
    images, targets = batch.images, batch.labels
    if parts.mixer is not None:
        key = (parts.settings.run.seed, step, slot.index)
        images, targets = parts.mixer(images, targets, key, batch.weights)
    images = parts.to_input(images)

    def mean_loss() -> Tensor:
        logits = engine.forward_only(images)
        return cross_entropy(logits, targets, batch.weights).sum() / max(valid, 1)

    with parts.perturbation.around(
        slot,
        step,
        parts.timeline.sigma(step),
        loss=mean_loss,
        # DeepSpeed divides by the number of micro-batches, the loss is a scaled sum.
        grad_scale=parts.split.micro_batches / (scale * valid) if scale * valid else 0.0,
        last=slot is parts.my_slots[-1],
    ):
        logits = engine.forward(images)
        loss = cross_entropy(logits, targets, batch.weights).sum() * scale
        engine.backward(loss)
    progress.observe(slot, loss, logits, batch)


def cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Loss of every sample, ``[B]``; 0 where its weight is 0.

    ``targets`` are labels ``[B]``, or shares of classes ``[B, num_classes]``.
    """
    each = F.cross_entropy(logits, targets, reduction="none")
    return torch.where(weights > 0, each * weights, 0.0)


def refresh_statistics(parts: Parts) -> None:
    """BatchNorm's statistics as they belong to the clean weights, the same on all ranks.

    Averaged over the ranks with clean passes; methods without any learn them anew.
    """
    parts.engine.weights.ensure_clean()
    module = parts.engine.module
    count = parts.settings.evaluation.recalibrate_batches
    if not parts.method.has_clean_pass and count:
        steps = parts.train.steps(0, min(count, parts.timeline.total_steps))
        batches = (b.to(parts.device).images for step in steps for b in step.batches)
        recalibrate(module, lambda x: parts.engine.forward_only(parts.to_input(x)), batches)
    contributes = parts.learns_statistics or not parts.method.has_clean_pass
    average_statistics(tracking_layers(module), contributes)


def evaluate_now(parts: Parts) -> dict[str, float]:
    """Loss, top-1 and top-5 of the clean weights on all evaluation samples. A collective."""
    refresh_statistics(parts)
    batches = (step.batches[0] for step in parts.val.steps())
    with evaluating(parts.engine.module):
        return evaluate(
            lambda images: parts.engine.forward_only(parts.to_input(images)),
            batches,
            parts.device,
        )
