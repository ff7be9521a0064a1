"""Forward, backward and step, the same on every engine and at every ZeRO stage."""

import math

import pytest
import torch
from support.ranks import run_ranks
from support.small import (
    ENGINES,
    run_all,
    same_bits,
    small_parts,
    small_settings,
    split_over,
    weights_of,
)

from rwp_dist.config import Split
from rwp_dist.engine.deepspeed.weights import Gathered, RestoredByStep
from rwp_dist.engine.start import start_engine
from rwp_dist.perturb.weights import PerturbedCopy
from rwp_dist.run.optimizers import build_optimizer

CPU = torch.device("cpu")
EVERY = (*ENGINES, "deepspeed.zero_stage=3")


def kinds_of_keepers(cases):
    kinds = []
    for overrides in cases:
        with small_parts(small_settings(*overrides)) as parts:
            kinds.append(type(parts.engine.weights).__name__)
    return kinds


def test_weights_are_copied_only_where_the_step_does_not_bring_them_back():
    """In production one perturbed pass at stage 1 or 2 must cost no memory."""
    one = [("method.name=m-rwp", engine, split_over(2, 2)) for engine in EVERY]
    several = [("method.name=rwp", engine, split_over(2, 2)) for engine in EVERY]
    kinds = run_ranks(kinds_of_keepers, 2, one + several)[0]
    copy, step, gathered = (c.__name__ for c in (PerturbedCopy, RestoredByStep, Gathered))
    assert kinds == [copy, copy, step, step, gathered, *[copy] * 4, gathered]


def mean_gradient():
    """Accumulate two losses on each of two ranks, and step once with plain SGD."""
    changes = {}
    for engine_name in EVERY:
        plain = ("method.name=sgd", "optimizer.momentum=0", "optimizer.weight_decay=0")
        settings = small_settings(*plain, engine_name)
        model, split = torch.nn.Linear(1, 1), Split(2, 2, 3)
        optimizer = build_optimizer(model, settings)
        engine = start_engine(model, optimizer, settings, split, CPU, num_perturbed=0)
        before = engine.full_weights()
        rank = torch.distributed.get_rank()
        for micro_batch in range(2):
            logits = engine.forward(torch.ones(3, 1) * 10.0 ** (2 * rank + micro_batch))
            engine.backward(logits.mean())
        assert engine.step(lr=0.5)
        after = engine.full_weights()
        changes[engine_name] = float((before["weight"] - after["weight"]) / 0.5)
        engine.close()
    return changes


def test_an_update_takes_the_mean_over_ranks_and_micro_batches_with_the_given_rate():
    for changes in run_ranks(mean_gradient, 2):
        assert changes == pytest.approx(dict.fromkeys(EVERY, 1111 / 4), rel=1e-5)


def norms_of_the_gradient(clip):
    """Of every engine after an update of two losses on each of two ranks."""
    norms, rank = {}, torch.distributed.get_rank()
    for engine_name in EVERY:
        model = net_of_two_groups()
        settings = small_settings("method.name=sgd", f"optimizer.clip_norm={clip}", engine_name)
        optimizer = build_optimizer(model, settings)
        engine = start_engine(model, optimizer, settings, Split(2, 2, 3), CPU, num_perturbed=0)
        assert "zero_stage" in engine_name or engine.grad_norm() is None
        for micro_batch in range(2):
            engine.backward(loss_of(engine.forward, 2 * rank + micro_batch))
        assert engine.step(lr=0.5)
        norms[engine_name] = engine.grad_norm()
        engine.close()
    return norms


def net_of_two_groups():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))


def loss_of(forward, number):
    logits = forward(torch.randn(3, 3, generator=torch.Generator().manual_seed(number)))
    return (logits * torch.arange(12.0).reshape(3, 4)).sum()


@pytest.mark.parametrize("clip", [0.0, 0.25])
def test_the_norm_is_that_of_the_whole_gradient_before_clipping(clip):
    net = net_of_two_groups().double()
    losses = [loss_of(lambda images: net(images.double()), number) for number in range(4)]
    gradient = torch.autograd.grad(sum(losses) / 4, list(net.parameters()))
    norm = float(torch.cat([g.flatten() for g in gradient]).norm())
    assert norm > 1
    for norms in run_ranks(norms_of_the_gradient, 2, clip):
        assert norms == pytest.approx(dict.fromkeys(EVERY, norm), rel=1e-5)


def norms_of_skipped_steps():
    norms = []
    for engine_name in ENGINES:
        settings = small_settings("method.name=sgd", "batch.global=3", engine_name)
        model = torch.nn.Linear(1, 1)
        optimizer = build_optimizer(model, settings)
        engine = start_engine(model, optimizer, settings, Split(1, 1, 3), CPU, num_perturbed=0)
        engine.backward(engine.forward(torch.full((3, 1), float("inf"))).mean())
        assert not engine.step(lr=0.5)
        norms.append(engine.grad_norm())
        engine.close()
    return norms


def test_the_norm_of_a_skipped_update_is_not_finite():
    (norms,) = run_ranks(norms_of_skipped_steps, 1)
    assert not any(map(math.isfinite, norms))


def norm_that_deepspeed_does_not_compute():
    extra = "deepspeed.extra={zero_optimization: {compute_grad_norm: false}}"
    with small_parts(small_settings("method.name=sgd", "deepspeed.zero_stage=1", extra)) as parts:
        run_all(parts, 0, 2)
        return parts.engine.grad_norm()


def test_there_is_no_norm_where_deepspeed_was_told_to_compute_none():
    assert run_ranks(norm_that_deepspeed_does_not_compute, 1) == [None]


def states_of_all_engines(optimizer):
    states = []
    for engine_name in EVERY:
        settings = small_settings("method.name=sgd", *optimizer, engine_name)
        with small_parts(settings) as parts:
            fresh = parts.engine.optimizer_state(keep=True)
            run_all(parts, 0, 2)
            states.append(
                (fresh, parts.engine.optimizer_state(keep=True), parts.engine.full_weights())
            )
    return states


@pytest.mark.parametrize(
    ("optimizer", "keys"),
    [
        ((), {"momentum_buffer"}),
        (("optimizer.name=adamw", "optimizer.eps=1e-3"), {"exp_avg", "exp_avg_sq", "step"}),
    ],
    ids=["sgd", "adamw"],
)
def test_optimizer_state_is_the_same_by_name_on_every_engine(optimizer, keys):
    for states in run_ranks(states_of_all_engines, 2, optimizer):
        _, reference, _ = states[0]
        for fresh, state, weights in states:
            assert fresh.keys() == state.keys() == weights.keys() == reference.keys()
            assert not any(fresh.values()), "before the first step there is none"
            for name, values in state.items():
                assert values.keys() == keys
                for key, value in values.items():
                    torch.testing.assert_close(
                        value.float(), reference[name][key].float(), rtol=1e-4, atol=1e-6
                    )


def evaluate_between_steps(look):
    with small_parts(small_settings("method.name=m-rwp")) as parts:
        images = parts.normalise(next(parts.train.steps(0, 1)).batches[0].images)
        for step in range(3):
            if look:
                parts.engine.module.eval()
                with torch.no_grad():
                    parts.engine.forward_only(images)
                parts.engine.module.train()
            run_all(parts, step, step + 1)
        return weights_of(parts)


def test_looking_at_the_network_between_steps_changes_nothing():
    looked, not_looked = (run_ranks(evaluate_between_steps, 2, look) for look in (True, False))
    assert same_bits(looked[0], not_looked[0])


def dtypes_of_passes(precision):
    with small_parts(small_settings("method.name=sgd", f"precision={precision}")) as parts:
        seen, engine = [], parts.engine
        images = parts.normalise(next(parts.train.steps(0, 1)).batches[0].images)
        engine.module.linear1.register_forward_hook(lambda *args: seen.append(str(args[2].dtype)))
        logits = [engine.forward(images), engine.forward_only(images)]
        assert all(x.dtype == torch.float32 for x in logits)
        assert all(p.dtype == torch.float32 for p in engine.params.values())
        return seen


def test_both_kinds_of_passes_compute_in_the_same_precision():
    assert run_ranks(dtypes_of_passes, 1, "fp32") == [["torch.float32"] * 2]
    assert run_ranks(dtypes_of_passes, 1, "bf16") == [["torch.bfloat16"] * 2]


def gradients_of_all_engines():
    found = []
    for engine_name in ENGINES:
        settings = small_settings("method.name=sgd", engine_name, split_over(2, 2))
        with small_parts(settings) as parts:
            engine, batches = parts.engine, next(parts.train.steps(0, 1)).batches
            for batch in batches:
                logits = engine.forward(parts.normalise(batch.images))
                engine.backward(parts.task.loss(logits, batch.labels, batch.weights).mean())
            grads = engine.gradients([engine.params["conv1.weight"], engine.params["linear2.bias"]])
            found.append([grad.clone() for grad in grads])
            engine.step(0.1)
    return found


def test_gradients_may_be_asked_for_before_the_step_and_are_means_over_passes_and_ranks():
    ranks = run_ranks(gradients_of_all_engines, 2)
    for rank in ranks:
        for grads in rank:
            for grad, wanted in zip(grads, ranks[0][0], strict=True):
                torch.testing.assert_close(grad, wanted, rtol=1e-4, atol=1e-6)
    assert ranks[0][0][0].norm() > 0


def gradients_in_bf16(precision):
    found = []
    for engine_name in ENGINES:
        more = ("engine.reduce_dtype=bf16", f"precision={precision}", engine_name)
        with small_parts(small_settings("method.name=sgd", *more)) as parts:
            engine = parts.engine
            (batch,) = next(parts.train.steps(0, 1)).batches
            logits = engine.forward(parts.normalise(batch.images))
            engine.backward(parts.task.loss(logits, batch.labels, batch.weights).mean())
            (grad,) = engine.gradients([engine.params["conv1.weight"]])
            found.append(grad.clone())
            engine.step(0.1)
    return found


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_engine_averages_in_bf16_if_it_is_asked_to(precision):
    for grads in run_ranks(gradients_in_bf16, 2, precision):
        for grad in grads:
            assert grad.dtype == torch.float32 and grad.norm() > 0
            assert torch.equal(grad, grad.bfloat16().float())
            torch.testing.assert_close(grad, grads[0], rtol=2e-2, atol=1e-3)
