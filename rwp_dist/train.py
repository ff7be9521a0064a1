"""The loop, on one page: what a run does, and what one step does.

for every step:
    for every slot of this rank (clean ones first):
        perturb the weights, if the slot is perturbed
        forward, weighted loss, backward       the last backward reduces gradients
    optimizer's step                           clean weights come back
    log, evaluate, save when due
"""

from collections.abc import Sequence
from datetime import datetime, timezone
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from rwp_dist.checkpoint import load_checkpoint, save_checkpoint
from rwp_dist.config import Settings
from rwp_dist.data.reader import Batch, Step, evaluation_batches
from rwp_dist.distributed import StopFlag, check_replicas, from_main, same_on_all_ranks
from rwp_dist.errors import Interrupted
from rwp_dist.evaluate import evaluate, evaluating, recalibrate
from rwp_dist.perturb.batchnorm import average_statistics, tracking_layers
from rwp_dist.perturb.noise import key_seed
from rwp_dist.perturb.roles import Slot, loss_scales
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
        with StopFlag() as stop:
            try:
                with self.tracker:
                    if self.first_step:
                        self.tracker.say(f"resumed after step {self.first_step:,} of {total:,}")
                    finished = self._loop(stop)
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

    def _loop(self, stop: StopFlag) -> bool:
        """All steps that are left; False if it was asked to stop."""
        parts, timeline = self.parts, self.parts.timeline
        self.progress.start()
        data = parts.reader.steps(*divmod(self.first_step, timeline.steps_per_epoch))
        for step in range(self.first_step, timeline.total_steps):
            if step % timeline.steps_per_epoch == 0:
                data = parts.reader.steps(step // timeline.steps_per_epoch)
            with self.progress.waiting():
                batch = next(data)
            train_step(parts, step, batch, self.progress)
            self.progress.step_done(batch)
            self.done = step + 1
            self.tracker.advance(self.done)
            with self.progress.paused():
                if self.tracker.stop_requested:
                    stop.raise_()
                stopping = stop.agreed() and self.done < timeline.total_steps
                self._between_steps(stopping)
            if stopping:
                return False
        return True

    def _between_steps(self, stopping: bool) -> None:
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
        if stopping or timeline.is_due(settings.checkpoint.every_epochs, done):
            refresh_statistics(self.parts)
            save_checkpoint(
                self.run_dir.checkpoints,
                self.parts.engine,
                self.parts.perturbation,
                step=done,
                progress=self.progress.counters() | {"eval": self.last_eval},
                keep_last=settings.checkpoint.keep_last,
            )


def train_step(parts: Parts, step: int, data: Step, progress: Progress) -> None:
    """One update of the weights from this rank's micro-batches."""
    engine, perturbation = parts.engine, parts.perturbation
    scales = loss_scales(parts.slots, data.valid.tolist())
    # Dropout and the like: a function of (seed, step, rank), so that resuming repeats it.
    torch.manual_seed(key_seed(parts.settings.run.seed, step, -1, dist.get_rank()))

    for slot, batch in zip(parts.my_slots, data.batches, strict=True):
        train_pass(parts, step, slot, batch.to(engine.device), scales, data, progress)

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
    scales: Sequence[float],
    data: Step,
    progress: Progress,
) -> None:
    """Forward and backward of one micro-batch, at clean or at perturbed weights."""
    engine = parts.engine
    images = parts.to_input(batch.images)
    scale, count = scales[slot.index], float(data.valid[slot.index])

    def mean_loss() -> Tensor:
        return cross_entropy(engine.forward_only(images), batch).sum() / max(count, 1.0)

    with parts.perturbation.around(
        slot,
        step,
        parts.timeline.sigma(step),
        loss=mean_loss,
        # DeepSpeed divides by the number of micro-batches, the loss is a scaled sum.
        grad_scale=parts.split.micro_batches / (scale * count) if scale * count else 0.0,
        last=slot is parts.my_slots[-1],
    ):
        logits = engine.forward(images)
        loss = cross_entropy(logits, batch).sum() * scale
        engine.backward(loss)
    progress.observe(slot, loss, logits, batch)


def cross_entropy(logits: Tensor, batch: Batch) -> Tensor:
    """Loss of every sample, ``[B]``; 0 for padding."""
    each = F.cross_entropy(logits, batch.labels, reduction="none")
    return torch.where(batch.weights > 0, each * batch.weights, 0.0)


def refresh_statistics(parts: Parts) -> None:
    """BatchNorm's statistics as they belong to the clean weights, the same on all ranks.

    Averaged over the ranks with clean passes; methods without any learn them anew.
    """
    parts.engine.weights.ensure_clean()
    module = parts.engine.module
    count = parts.settings.evaluation.recalibrate_batches
    if not parts.method.has_clean_pass and count:
        steps = islice(parts.reader.steps(0), count)
        batches = (b.to(parts.device).images for step in steps for b in step.batches)
        recalibrate(module, lambda x: parts.engine.forward_only(parts.to_input(x)), batches)
    contributes = parts.learns_statistics or not parts.method.has_clean_pass
    average_statistics(tracking_layers(module), contributes)


def evaluate_now(parts: Parts) -> dict[str, float]:
    """Loss, top-1 and top-5 of the clean weights on all evaluation samples. A collective."""
    refresh_statistics(parts)
    batches = evaluation_batches(
        parts.val, parts.settings.batch.per_rank, dist.get_rank(), dist.get_world_size()
    )
    with evaluating(parts.engine.module):
        return evaluate(
            lambda images: parts.engine.forward_only(parts.to_input(images)),
            batches,
            parts.device,
        )
