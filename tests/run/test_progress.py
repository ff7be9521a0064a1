"""What a run measures about itself: times by a clock that only the test moves, losses by hand."""

import copy
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from support.methods import overrides
from support.ranks import run_ranks
from support.reads import Reads
from support.small import (
    agree,
    run_steps,
    same_bits,
    small_net,
    small_parts,
    small_samples,
    small_settings,
    split_over,
    weights_of,
)
from torch.nn import functional as F

from rwp_dist import train as train_module
from rwp_dist.data.image import Mixer
from rwp_dist.data.remote import CacheStats
from rwp_dist.perturb import stopwatch
from rwp_dist.process.consensus import Agreed, Consensus
from rwp_dist.run import progress as module
from rwp_dist.run.progress import Progress
from rwp_dist.run.task import Classification

STEP = SimpleNamespace(num_bytes=0, cache=CacheStats())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def attempt(world_size: int, state: dict | None = None) -> Progress:
    """The progress of one attempt, whose first step is about to begin."""
    progress = Progress(
        SimpleNamespace(
            device=torch.device("cpu"),
            task=Classification(),
            split=SimpleNamespace(world_size=world_size),
            engine=SimpleNamespace(skipped_steps=0),
            perturbed=SimpleNamespace(backend="torch"),
        )
    )
    if state:
        progress.load_state_dict(state)
    progress.start()
    return progress


def train(progress: Progress, clock: SimpleNamespace, step_s: float) -> None:
    clock.now += step_s
    progress.step_done(STEP, Agreed(clean=10, perturbed=6, bad=0, stop=False))


def test_time_and_samples_add_up_over_attempts_on_other_numbers_of_ranks(
    clock: SimpleNamespace,
) -> None:
    first = attempt(world_size=2)
    train(first, clock, 1.0)
    with first.paused():  # an evaluation
        clock.now += 10.0
    train(first, clock, 2.0)
    state = first.state_dict()
    clock.now += 500.0  # lost or waiting
    second = attempt(world_size=4, state=state)
    assert second.spent() == {"samples": 32, "train_s": 3, "device_seconds": 6, "wall_s": 13}
    train(second, clock, 5.0)
    assert second.spent() == {"samples": 48, "train_s": 8, "device_seconds": 26, "wall_s": 18}


def test_a_checkpoint_of_0_1_has_training_seconds_alone(clock: SimpleNamespace) -> None:
    state = attempt(world_size=2).state_dict() | {"train_s": 3.0}
    del state["device_seconds"], state["wall_s"]
    spent = attempt(world_size=2, state=state).spent()
    assert (spent["device_seconds"], spent["wall_s"]) == (6, 3)


STEPS = 6
PASSES = {
    ("sgd",): "clean",
    ("rwp",): "perturbed",
    ("rwp", "method.every=2"): "both",
    ("m-rwp",): "both",
    ("m-rwp", "method.lambda=1"): "both",
    ("m-rwp", "method.stop=0"): "clean",
    ("sam",): "both",
    ("sam", "method.warmup_steps=2"): "both",
    ("last-sam", "method.stop=0.2"): "clean",  # its first update has no direction to go
    ("last-sam",): "both",
}
"""Methods and settings, and the weights that their passes are at."""


def losses_by_hand(cases):
    """For every case the record of some updates, and of each forward pass on this rank: whether its
    weights were perturbed, the summed loss in float64, the number of samples."""
    return [_losses_by_hand(*case) for case in cases]


def _losses_by_hand(method, *more):
    settings = small_settings(*overrides(method, *more, split_over(2, 2)), steps=STEPS)
    # The last batch of an epoch is padded.
    with small_parts(settings, samples=small_samples(57)) as parts:
        passes, images, clean, loss = [], [], [weights_of(parts)], parts.task.loss
        net = copy.deepcopy(small_net()).double()

        def looking(logits, targets, weights):
            module = parts.engine.module
            net.load_state_dict(module.state_dict())
            each = F.cross_entropy(net(images[-1].double()), targets, reduction="none")
            perturbed = not same_bits(weights_of(parts), clean[0])
            passes.append((perturbed, float(each[weights > 0].detach().sum()), int(weights.sum())))
            return loss(logits, targets, weights)

        parts.task.loss = looking
        parts.engine.module.register_forward_pre_hook(lambda _, args: images.append(args[0]))
        progress = Progress(parts)
        for _ in run_steps(parts, 0, STEPS, progress):
            clean[0] = weights_of(parts)
        return progress.train_record(STEPS, 0), passes, parts.flops_per_image(0)


def test_losses_at_clean_and_perturbed_weights_are_means_over_the_samples_of_all_ranks():
    results = run_ranks(losses_by_hand, 2, list(PASSES))
    for case, first, second in zip(PASSES.items(), *results, strict=True):
        record, mine, per_image = first
        passes, expected = mine + second[1], {}
        for key, role in (("clean_loss", False), ("perturbed_loss", True)):
            own = [(loss, samples) for perturbed, loss, samples in passes if perturbed == role]
            losses, samples = zip(*own, strict=True) if own else ((), ())
            expected[key] = sum(losses) / sum(samples) if own else None
        both = None not in expected.values()
        found = "both" if both else "clean" if expected["clean_loss"] else "perturbed"
        assert found == case[1], case
        for key, value in expected.items():
            assert record[key] == (value and pytest.approx(value, rel=1e-6)), (case, key)
        if both:
            gap = expected["perturbed_loss"] - expected["clean_loss"]
            assert record["loss_gap"] == pytest.approx(gap, abs=1e-5) and abs(gap) > 1e-4, case
        else:
            assert record["loss_gap"] is None
        work = per_image * sum(samples for *_, samples in passes) / 2
        assert record["tflops"] * 1e12 * record["step_s"] * STEPS == pytest.approx(work)
        assert record["samples"] == 57 + 11  # an epoch, and a step with one of three paddings
        assert record["mfu"] is None and record["grad_norm"] > 0


def accuracy_of_mixed_images(alpha, smoothing):
    """Top-1 of a record, that of the shares that targets hold, and that of the images' labels."""
    settings = small_settings(
        "method.name=sgd",
        f"augment.mixup={alpha}",
        f"augment.label_smoothing={smoothing}",
        steps=STEPS,
    )
    with small_parts(settings) as parts:
        sums, loss, mixed = [0.0, 0.0, 0.0], parts.task.loss, Mixer.__call__

        def mixing(mixer, images, labels, *args):
            sums.append(labels)
            return mixed(mixer, images, labels, *args)

        def looking(logits, targets, weights):
            best = logits.detach().argmax(1)
            spread = smoothing / targets.shape[1]
            shares = (targets - spread) / (1 - smoothing)
            sums[0] += float((shares.gather(1, best[:, None])[:, 0] * weights).sum())
            sums[1] += float(((sums.pop() == best) * weights).sum())
            sums[2] += float(weights.sum())
            return loss(logits, targets, weights)

        parts.task.loss = looking
        progress = Progress(parts)
        with patch.object(Mixer, "__call__", mixing):
            for _ in run_steps(parts, 0, STEPS, progress):
                pass
        top1 = progress.train_record(STEPS, 0)["top1"]
        return top1, 100 * sums[0] / sums[2], 100 * sums[1] / sums[2]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_training_accuracy_under_mixup_is_counted_by_the_mixed_labels(smoothing):
    found, by_shares, by_labels = run_ranks(accuracy_of_mixed_images, 1, 1.0, smoothing)[0]
    assert found == pytest.approx(by_shares, abs=1e-3) and abs(found - by_labels) > 1


def test_label_smoothing_does_not_change_what_training_accuracy_counts():
    found, by_shares, by_labels = run_ranks(accuracy_of_mixed_images, 1, 0.0, 0.1)[0]
    assert found == by_labels == pytest.approx(by_shares, abs=1e-3)


def second_record(case):
    """The second of two records, and the first record of a run that begins where that does."""
    with small_parts(small_settings(*case, steps=STEPS)) as parts:
        progress, fresh = Progress(parts), Progress(parts)
        for _ in run_steps(parts, 0, 2, progress):
            pass
        progress.train_record(2, 0)
        consensus, data = Consensus(), parts.train.steps(2, STEPS)
        for step, batch in zip(range(2, STEPS), data, strict=True):
            agreed = agree(parts, batch, consensus)

            def both(name, *args, **more):
                getattr(fresh, name)(*args, **more)
                return getattr(Progress, name)(progress, *args, **more)

            with patch.multiple(
                progress,
                add_loss=lambda *args, **more: both("add_loss", *args, **more),
                observe=lambda *args: both("observe", *args),
                create=True,
            ):
                train_module.train_step(parts, step, batch, agreed, progress)
            for each in (progress, fresh):
                each.step_done(batch, agreed)
        consensus.close()
        keys = ("loss", "top1", "clean_loss", "perturbed_loss", "loss_gap")
        records = [each.train_record(STEPS, 0) for each in (progress, fresh)]
        return [[record[key] for key in keys] for record in records]


def test_a_record_is_of_the_updates_since_the_last_one():
    for found, expected in run_ranks(second_record, 2, overrides("m-rwp")):
        assert found == expected


def reads_of_passes(cases):
    """How often a pass and what is counted of a step read a value from the device, by case; and
    collectives of one record."""
    return [_reads_of_passes(case) for case in cases]


def _reads_of_passes(case):
    with small_parts(small_settings(*case, steps=STEPS)) as parts:
        progress, reads, train_pass = Progress(parts), Reads(), train_module.train_pass
        step_done = progress.step_done

        def read(call):
            def counting(*args):
                with reads:
                    call(*args)

            return counting

        progress.step_done = read(step_done)
        with patch.object(train_module, "train_pass", read(train_pass)):
            for _ in run_steps(parts, 0, STEPS, progress):
                pass
        in_passes = reads.count
        with patch.object(dist, "all_reduce", wraps=dist.all_reduce) as reduces, reads:
            progress.train_record(STEPS, 0)
        return in_passes, reads.count - in_passes, reduces.call_count


def test_passes_wait_for_no_value_and_a_record_takes_three_collectives():
    cases = [overrides(m, "deepspeed.zero_stage=0") for m in ("sgd", "m-rwp", "sam", "last-sam")]
    for in_passes, in_record, collectives in run_ranks(reads_of_passes, 1, cases)[0]:
        assert (in_passes, collectives) == (0, 3)
        assert in_record > 0, "a record reads, and this test sees it"


def spread_of(stage):
    """Ranks whose forward passes take 1, 2 and 4 s wait for the slowest in their backward pass."""
    settings = small_settings("method.name=sgd", f"deepspeed.zero_stage={stage}", steps=STEPS)
    clock = SimpleNamespace(now=1000.0)
    fake = SimpleNamespace(perf_counter=lambda: clock.now)

    def wait(by):
        clock.now += by

    with (
        patch.object(module, "time", fake),
        patch.object(stopwatch, "time", fake),
        small_parts(settings) as parts,
    ):
        own = 2.0 ** dist.get_rank()
        slowest = 2.0 ** (dist.get_world_size() - 1)
        forward, backward = parts.engine.forward, parts.engine.backward
        parts.engine.forward = lambda images: (wait(own), forward(images))[1]
        parts.engine.backward = lambda loss: (wait(slowest - own + 1.0), backward(loss))
        progress = Progress(parts)
        progress.start()
        for _ in run_steps(parts, 0, 2, progress):
            pass
        return progress.train_record(2, 0)["step_spread"]


def test_the_spread_is_what_the_slowest_rank_computes_longer_although_all_updates_take_as_long():
    assert run_ranks(spread_of, 3, 1) == [pytest.approx((4 - 1) / 5)] * 3


def test_there_is_no_spread_of_one_rank_and_where_forward_passes_wait_for_each_other():
    assert run_ranks(spread_of, 1, 1) == [None]
    assert run_ranks(spread_of, 2, 3) == [None, None]
