"""The loop: what one step computes, then what a run does around its steps.

for every step:
    for every slot of this rank (clean ones first):
        perturb the weights, if the slot is perturbed
        forward, weighted loss, backward       the last backward reduces gradients
    optimizer's step                           clean weights come back
    log, evaluate, save when due
"""

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.profiler import record_function

from rwp_dist.base.errors import CheckpointWriteError, DivergedError, Interrupted
from rwp_dist.base.keyed import key_seed
from rwp_dist.config import Settings
from rwp_dist.data.batch import Batch, Step
from rwp_dist.engine.sharding import engine_name
from rwp_dist.perturb.slots import loss_scale
from rwp_dist.process.consensus import Agreed, Consensus
from rwp_dist.process.group import any_rank, same_on_all_ranks
from rwp_dist.process.heartbeat import Heartbeat
from rwp_dist.process.replicas import check_replicas
from rwp_dist.process.signals import StopSignals
from rwp_dist.process.silence import AGREES, BETWEEN, COMPUTES, READS
from rwp_dist.process.stages import stage
from rwp_dist.record.directory import RunDir
from rwp_dist.record.ending import write_end
from rwp_dist.record.identity import ENGINE, brief
from rwp_dist.run.bad_samples import BadSamples, list_evaluation
from rwp_dist.run.build import build_parts
from rwp_dist.run.checkpoint import load_checkpoint, save_checkpoint
from rwp_dist.run.evaluate import LastEvaluation, clean_network, evaluate_beside, evaluate_run
from rwp_dist.run.history import History
from rwp_dist.run.opening import OpenRun, finished_summary, opened_run
from rwp_dist.run.parts import Parts, Stateful
from rwp_dist.run.profiling import Profile
from rwp_dist.run.progress import Progress
from rwp_dist.run.watch import Watch
from rwp_dist.tracking import alerts, open_tracker


def train_step(parts: Parts, step: int, data: Step, agreed: Agreed, progress: Progress) -> None:
    """One update of the weights from this rank's micro-batches.

    ``agreed`` says how many samples of each role all ranks have for it.
    """
    # Dropout and the like: a function of (seed, step, rank), so that resuming repeats it.
    torch.manual_seed(key_seed(parts.settings.run.seed, step, -1, dist.get_rank()))
    for micro_batch, (batch, valid) in enumerate(zip(data.batches, data.valid, strict=True)):
        train_pass(parts, step, micro_batch, batch.to(parts.device), valid, agreed, progress)
    with record_function("step"):
        applied = parts.engine.step(parts.timeline.lr(step))
    parts.perturbed.end_step(applied)
    progress.after_step(applied)
    for extra in parts.extras.values():
        extra.after_step(step, applied)


def train_pass(
    parts: Parts,
    step: int,
    micro_batch: int,
    batch: Batch,
    valid: int,
    agreed: Agreed,
    progress: Progress,
) -> None:
    """Forward and backward of one micro-batch, at clean or at perturbed weights.

    ``valid``: its samples that count.
    """
    engine, task, slot = parts.engine, parts.task, parts.perturbed.my_slots[micro_batch]
    # The loss is a sum over samples times ``scale``; see there for what that makes exact.
    scale = loss_scale(slot, parts.split.slots, agreed.clean, agreed.perturbed)
    images, targets, labels = batch.images, batch.labels, batch.labels
    if parts.mixer is not None:
        key = (parts.settings.run.seed, step, slot.index)
        images, targets, labels = parts.mixer(images, targets, key, batch.weights)
    targets = task.targets(images, targets)
    images = parts.normalise(images)

    def mean_loss() -> Tensor:
        logits = engine.forward_only(images)
        total = task.loss(logits, targets, batch.weights).sum()
        progress.add_loss(total, valid, perturbed=False)
        return engine.scaled(total / max(valid, 1))

    # The engine averages over passes, so one pass's gradient is that of its loss / num_passes.
    grad_scale = engine.num_passes / (scale * valid) if scale * valid else 0.0
    with parts.perturbed(step, micro_batch, loss=mean_loss, grad_scale=grad_scale):
        with progress.forward_watch.running("forward"):
            logits = engine.forward(images)
            total = task.loss(logits, targets, batch.weights).sum()
            loss = total * scale
        with record_function("backward"):
            engine.backward(loss)
    progress.add_loss(total, valid, perturbed=parts.perturbed.perturbs)
    progress.observe(slot, loss, logits, labels, batch.weights)


class Training:
    """One attempt at a run: its progress, and logging, evaluation and checkpoints between steps."""

    def __init__(
        self,
        parts: Parts,
        run_dir: RunDir,
        history: History,
        position: tuple[int, int] | None = None,
    ) -> None:
        """Load the newest checkpoint, if there is one."""
        self.parts, self.run_dir = parts, run_dir
        self.is_main = dist.get_rank() == 0
        self.finished = False
        self.bad = BadSamples(run_dir.path, parts.settings.data.max_bad_samples)
        self.history = history
        self.progress = Progress(parts)
        self.last_eval = LastEvaluation()
        self.stateful: dict[str, Stateful] = {
            "history": self.history,
            "perturbed": parts.perturbed,
            "bad_samples": self.bad,
            "progress": self.progress,
            "evaluation": self.last_eval,
            **parts.extras,
        }
        with stage("loading the newest checkpoint"):
            self.first_step, troubles = load_checkpoint(
                run_dir.checkpoints, parts.engine, self.stateful
            )
        self.history.resumed(self.first_step, parts.timeline.total_steps)
        self.done = self.first_step
        """Updates of the weights so far."""
        with stage("opening the trackers"), same_on_all_ranks():
            self.tracker = open_tracker(
                parts.settings,
                run_dir,
                total_steps=parts.timeline.total_steps,
                first_step=self.first_step,
                position=position,
            )
        for trouble in troubles:
            self.tracker.say(f"{trouble}; it is put aside as .bad.")
        last = run_dir.read_last_metrics(self.first_step) if self.is_main else []
        recorded = any(record.get("kind") == "checkpoint" for record in last)
        self._last_save = self.first_step if recorded else -1
        if self.first_step:
            total = parts.timeline.total_steps
            self.tracker.say(f"resumed after step {self.first_step:,} of {total:,}")
        for note in (*parts.notes, *self.history.notes()):
            self.tracker.say(str(note))
        self._say_who_draws()
        skipped = self.progress.skipped_steps
        self.watch = Watch(parts.settings, run_dir, self.tracker, self.first_step, skipped)

    def _say_who_draws(self) -> None:
        """If the noise is slow, or not what a run that was never interrupted would get."""
        backend, before = self.parts.perturbed.backend, self.progress.noise_backend_before
        if backend == "torch" and self.parts.settings.noise.backend == "auto":
            on_gpu = self.parts.device.type == "cuda"
            why = "Triton is not installed" if on_gpu else "`rwp-dist doctor` says what is missing"
            self.tracker.say(f"Noise is drawn by torch's generator, which takes longer: {why}.")
        if before not in (None, backend):
            self.tracker.say(
                f"Noise was drawn by noise.backend={before} and is by {backend} from here on, so "
                "updates are not bit for bit those of the first attempt."
            )

    def run(self, signals: StopSignals, session: str) -> dict[str, Any]:
        """Steps until the run is finished, or asked to stop; returns the summary so far."""
        with Heartbeat() as heartbeat, self.watch:
            with Profile(self.run_dir, self.parts.settings.profile) as profile:
                self.finished = self._loop(signals, heartbeat, profile)
            if profile.outcome:
                self.tracker.say(profile.outcome)
            summary = self.progress.summary(self.last_eval.result, self.bad.total, session)
            summary |= {"identity": brief(self.history.identity), "changes": self.history.changes}
            if self.finished:
                self._check_success(summary)
            if self.finished and self.is_main:
                self.run_dir.write_summary(summary)
                self.tracker.summarize(summary)
                self.tracker.alert(alerts.finished(summary))
        return summary

    def _check_success(self, summary: dict[str, Any]) -> None:
        """Refuse to call a run finished that is of no use.

        Raises:
            DivergedError: its last updates diverge, or a metric is not a finite number.
        """
        wrong = [
            f"its {name} in the evaluation is {summary[name]}"
            for name in ("loss", *self.parts.task.metrics)
            if summary[name] is not None and not math.isfinite(summary[name])
        ]
        if self.progress.diverges:
            wrong.append("its last updates were skipped, or their loss is far above guessing")
        if wrong:
            raise DivergedError(
                f"after {self.done:,} steps the run has diverged: {', '.join(wrong)}",
                cure="lower optimizer.lr or the strength of the perturbation, or lengthen the "
                "warm-up, and train in another run.dir",
            )

    def _loop(self, signals: StopSignals, heartbeat: Heartbeat, profile: Profile) -> bool:
        """All steps that are left; False if it was asked to stop."""
        parts, total = self.parts, self.parts.timeline.total_steps
        if self.first_step == total:  # the attempt before ended after its last checkpoint
            return True
        data = parts.train.steps(self.first_step, total)
        consensus = Consensus()
        self.progress.start()
        self.watch.at(self.first_step - 1, READS)
        with stage("reading the first samples"):
            coming = self._fetch(data, consensus, signals)
        for step in range(self.first_step, total):
            self.watch.at(step, AGREES)
            batches, agreed = coming, consensus.take()
            if agreed.stop:
                self.watch.at(step - 1, BETWEEN)
                self._take_stock(evaluating=False, saving=True)
                return False
            self.bad.count(batches.bad, agreed)
            self.watch.at(step, COMPUTES)
            with stage("the first step") if step == self.first_step else nullcontext():
                train_step(parts, step, batches, agreed, self.progress)
            # While a GPU still computes, the next step's samples are fetched and agreed upon.
            self.watch.at(step, READS)
            if step + 1 < total:
                coming = self._fetch(data, consensus, signals)
            self.watch.at(step, BETWEEN)
            self.progress.step_done(batches, agreed)
            profile.step_done()
            self.done = step + 1
            self.tracker.advance(self.done)
            heartbeat.beat()
            with self.progress.paused():
                self._between_steps(agreed.bad > 0)
        consensus.close()
        return True

    def _fetch(self, data: Iterator[Step], consensus: Consensus, signals: StopSignals) -> Step:
        """The next step's samples; what this rank knows of them goes to all ranks.

        A signal ends the waiting: the step will not be computed, and may never come.
        """
        with self.progress.waiting():
            step = signals.wait(lambda: next(data)) or Step(
                [], [0] * len(self.parts.perturbed.my_slots)
            )
        roles = list(zip(self.parts.perturbed.my_slots, step.valid, strict=True))
        consensus.post(
            clean=sum(valid for slot, valid in roles if not slot.perturbed),
            perturbed=sum(valid for slot, valid in roles if slot.perturbed),
            bad=len(step.bad),
            stop=signals.asked or self.tracker.stop_requested,
        )
        return step

    def _between_steps(self, more_bad: bool) -> None:
        """Check, log, evaluate and save, each when it is due; ``more_bad``: more bad samples."""
        parts, settings, done = self.parts, self.parts.settings, self.done
        every = settings.run.check_replicas_every
        if every and done % every == 0 and parts.engine.weights.whole:  # else no replicas
            check_replicas(parts.engine.module, done)
        if more_bad:
            self.watch.bad_samples(self.bad.total)
        if done % settings.tracking.log_every == 0 or done == parts.timeline.total_steps:
            record = self.progress.train_record(done, self.bad.total)
            self.tracker.log("train", record)
            self.progress.diverges = self.watch.look(record)
            if self.is_main:
                self.run_dir.write_status("running", done, parts.timeline.total_steps)
        evaluating = parts.timeline.is_due(settings.evaluation.every_epochs, done)
        saving = parts.timeline.is_due(settings.checkpoint.every_epochs, done)
        if evaluating or saving:
            self._take_stock(evaluating, saving)
        coming = parts.timeline.steps_until(settings.evaluation.every_epochs, done)
        if 0 < coming <= parts.val.ahead:
            parts.val.begin()

    def _take_stock(self, evaluating: bool, saving: bool) -> None:
        """Evaluate and save the clean network."""
        spent = self.progress.spent()  # before the evaluation takes its time
        # A checkpoint that is not evaluated has the statistics of its result alone.
        self.last_eval.beside = {}
        if evaluating:
            beside, self.last_eval.beside = evaluate_beside(self.parts, self.done)
        with clean_network(self.parts, self.done):
            if evaluating:
                result, bad = evaluate_run(self.parts, self.done)
                self.last_eval.result = {**result, **beside}
                if self.is_main:
                    list_evaluation(self.run_dir.path, bad)
                epoch = self.done / self.parts.timeline.steps_per_epoch
                record = {"step": self.done, "epoch": epoch} | spent | self.last_eval.result
                self.tracker.log("eval", record)
            if saving:
                self._save()

    def _save(self) -> None:
        """Write a checkpoint, and a record of it."""
        begin = time.perf_counter()
        try:
            num_bytes = save_checkpoint(
                self.run_dir.checkpoints,
                self.parts.engine,
                self.stateful,
                step=self.done,
                keep_last=self.parts.settings.checkpoint.keep_last,
            )
        except CheckpointWriteError as error:
            self.watch.missed_checkpoint(error, self.done)
            raise
        # A stop right after a checkpoint, or a resume from it, writes it again.
        if self.done != self._last_save:
            record = {"step": self.done, "save_s": time.perf_counter() - begin, "bytes": num_bytes}
            self.tracker.log("checkpoint", record)
            self._last_save = self.done


def train(
    settings: Settings, session: str = "", position: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Train one run to its end, from its newest checkpoint if there is one; returns its summary.

    Every rank calls it, inside a process group.

    Args:
        settings: everything the run depends on.
        session: runs with one session's name took turns on the same machine, so that their step
            times may be compared.
        position: which of how many runs this is, from 1.

    Raises:
        RwpError: data, settings or checkpoints are not what they should be, on any rank.
        Interrupted: a signal ended the run after a checkpoint.
    """
    finished = finished_summary(settings)
    if finished is not None:
        return finished
    with opened_run(settings) as run:
        return _attempt(run, session, position)


def _attempt(run: OpenRun, session: str, position: tuple[int, int] | None) -> dict[str, Any]:
    training: Training | None = None
    try:
        with same_on_all_ranks():
            parts = build_parts(run.settings)
        # From here on a signal asks for a checkpoint after the present step.
        with StopSignals() as signals:
            identity = run.identity | {ENGINE: engine_name(parts.settings)}
            history = History(identity, parts.classes, run.mixed_code)
            training = Training(parts, run.run_dir, history, position)
            summary = training.run(signals, session)
            state = "finished" if training.finished else "interrupted"
            _write_end(run, training, state, None)
            # The first rank to leave would have the others killed.
            asked = any_rank(signals.asked)
            training.tracker.close(state)  # the last, because uploads may take long
    except BaseException as error:
        with suppress(OSError):  # the disk is full or fails; the error before says more
            _write_end(run, training, "failed", error)
        if training:
            stopped = isinstance(error, Interrupted | KeyboardInterrupt)
            training.tracker.close("interrupted" if stopped else "failed")
        raise
    parts.close()
    more_to_come = position is not None and position[0] < position[1]
    if not training.finished or (asked and more_to_come):
        done, total = training.done, parts.timeline.total_steps
        raise Interrupted(
            f"Stopped after step {done:,} of {total:,}, saved in {run.run_dir.path}",
            cure=None if training.finished else "start the same command again to go on",
        )
    return summary


def _write_end(
    run: OpenRun,
    training: Training | None,
    state: str,
    failure: BaseException | None,
) -> None:
    """Say in the run directory how this attempt ended; rank 0 does."""
    if dist.get_rank() != 0:
        return
    saved = run.run_dir.saved_step()
    steps, changed, reason = (saved, saved, 0), list[str](), None
    if training:
        total = training.parts.timeline.total_steps
        steps, changed = (training.first_step, training.done, total), training.history.changed_now
        if state == "interrupted" and training.tracker.stop_requested:
            reason = "wandb"  # a person's wish: no launcher starts it again
    write_end(run.run_dir, state, steps, failure, reason=reason, changed=changed)
