"""Property 4: BatchNorm's running statistics belong to clean weights and are equal on all ranks."""

import torch
import torch.distributed as dist
from support import oracle
from support.ranks import run_ranks
from support.small import (
    buffers_of,
    run_all,
    same_bits,
    small_net,
    small_parts,
    small_samples,
    small_settings,
    split_over,
)
from torch import nn

from rwp_dist.perturb.statistics import average_statistics, frozen_statistics, tracking_layers
from rwp_dist.run.evaluate import clean_network, evaluate_parts


def test_frozen_statistics_stay_and_batches_are_still_normalised_by_their_own():
    layer, images = nn.BatchNorm2d(2), torch.randn(4, 2, 3, 3) * 5 + 7
    before = {name: b.clone() for name, b in layer.named_buffers()}
    for _ in range(2):  # twice, because what is restored must be what was there at first
        with frozen_statistics(tracking_layers(layer)), frozen_statistics([]):
            out = layer(images)
        assert same_bits(before, dict(layer.named_buffers()))
        torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    layer(images)
    assert not same_bits(before, dict(layer.named_buffers()))


def average_with_one_rank_left_out():
    rank, layer = dist.get_rank(), nn.BatchNorm1d(2)
    layer.running_mean.fill_([1.0, 3.0, float("nan")][rank])
    layer.running_var.copy_(torch.tensor([[2.0, 4.0], [4.0, 8.0], [float("inf")] * 2][rank]))
    layer.num_batches_tracked.fill_([5, 6, 0][rank])
    average_statistics([layer], contributes=rank < 2)
    return {name: b.tolist() for name, b in layer.named_buffers()}


def test_the_average_takes_only_ranks_with_clean_passes_and_reaches_all():
    wanted = {"running_mean": [2.0, 2.0], "running_var": [3.0, 6.0], "num_batches_tracked": 6}
    assert run_ranks(average_with_one_rank_left_out, 3) == [wanted] * 3


def buffers_before_and_in_evaluation(overrides):
    with small_parts(small_settings(*overrides)) as parts:
        run_all(parts, stop=4)
        before = buffers_of(parts)
        with clean_network(parts, 4):
            evaluate_parts(parts)
            evaluated = buffers_of(parts)
        assert same_bits(buffers_of(parts), before), "a rank goes on with its own"
        return before, evaluated


def test_evaluation_sees_the_statistics_of_clean_ranks_on_every_rank():
    """Rank 0 is clean and rank 1 perturbed throughout."""
    start = {name: b.clone() for name, b in small_net().named_buffers()}
    overrides = ("method.name=m-rwp", "deepspeed.zero_stage=1")
    clean, perturbed = run_ranks(buffers_before_and_in_evaluation, 2, overrides)
    assert same_bits(perturbed[0], start), "a perturbed pass has moved running statistics"
    assert not same_bits(clean[0], start)
    assert same_bits(clean[1], clean[0]) and same_bits(perturbed[1], clean[0])


def test_evaluation_sees_the_mean_over_ranks_when_all_have_clean_passes():
    overrides = ("method.name=sam", "deepspeed.zero_stage=1")
    ranks = run_ranks(buffers_before_and_in_evaluation, 2, overrides)
    assert not same_bits(ranks[0][0], ranks[1][0])
    for name, first in ranks[0][0].items():
        mean = (first.double() + ranks[1][0][name].double()) / 2
        for _, after in ranks:
            torch.testing.assert_close(after[name].double(), mean, rtol=1e-6, atol=1e-7)
    assert same_bits(ranks[0][1], ranks[1][1])


def start_with_different_buffers():
    net = small_net()
    for buffer in net.buffers():
        buffer.add_(dist.get_rank() + 1)
    with small_parts(small_settings("method.name=sgd"), net) as parts:
        return buffers_of(parts)


def test_all_ranks_start_with_the_buffers_of_rank_0():
    wanted = {name: b + 1 for name, b in small_net().named_buffers()}
    for buffers in run_ranks(start_with_different_buffers, 2):
        assert same_bits(buffers, wanted)


def recalibrate_after_some_steps(recalibrate_batches):
    settings = small_settings(
        "method.name=rwp", split_over(2, 2), f"evaluation.recalibrate_batches={recalibrate_batches}"
    )
    with small_parts(settings) as parts:
        run_all(parts, stop=3)
        before = buffers_of(parts)
        with clean_network(parts, 3):
            relearned = buffers_of(parts)
        assert same_bits(buffers_of(parts), before), "a rank goes on with its own"
        momenta = [layer.momentum for layer in tracking_layers(parts.engine.module)]
        steps = parts.train.steps(0, recalibrate_batches)
        images = [batch.images for step in steps for batch in step.batches]
        return before, relearned, parts.engine.full_weights(), images, momenta


def test_rwp_learns_statistics_anew_at_the_clean_weights():
    """The first layer's by hand: plain means over batches of all ranks, in float64."""
    ranks = run_ranks(recalibrate_after_some_steps, 2, 3)
    before, after, weights, _, momenta = ranks[0]
    assert same_bits(after, ranks[1][1]) and not same_bits(before, after)
    assert momenta == [0.1, 0.1], "the momentum of training must come back"
    formula = oracle.Formula("rwp", 1)
    means, variances = [], []
    for batch in (batch for *_, images, _ in ranks for batch in images):
        inputs = (batch.double() / 255 - formula.mean) / formula.std
        outputs = nn.functional.conv2d(inputs, weights["conv1.weight"].double(), padding=1)
        means.append(outputs.mean((0, 2, 3)))
        variances.append(outputs.var((0, 2, 3), unbiased=True))
    assert len(means) == 2 * 3 * 2
    for name, values in (("running_mean", means), ("running_var", variances)):
        wanted = torch.stack(values).mean(0).float()
        torch.testing.assert_close(after[f"bn1.{name}"], wanted, rtol=1e-5, atol=1e-6)


def test_recalibration_can_be_switched_off():
    for before, after, *_ in run_ranks(recalibrate_after_some_steps, 1, 0):
        assert same_bits(before, after)


def samples_seen_by_statistics():
    with small_parts(small_settings("method.name=arwp"), samples=small_samples(24)) as parts:
        run_all(parts, stop=2)
        return int(buffers_of(parts)["bn1.num_batches_tracked"])


def test_methods_without_a_clean_pass_use_the_passes_they_have():
    assert run_ranks(samples_seen_by_statistics, 1) == [2]
