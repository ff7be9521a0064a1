"""``attach``: any loop gets what the loop with blocks gets."""

import copy
import warnings

import pytest
import torch
from support.ranks import run_ranks
from support.small import same_bits
from torch import nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from rwp_dist.base.errors import ConfigError
from rwp_dist.perturb import METHODS, Perturbed

STEPS = 8
CASES = {
    "sgd": ({}, 1),
    "rwp": ({"sigma": 0.1}, 1),
    "arwp": ({"sigma": 0.1, "eta": 20.0}, 2),
    "last-sam": ({"rho": 0.2}, 1),
    "m-rwp": ({"sigma": 0.1}, 2),
    "m-arwp": ({"sigma": 0.1, "eta": 20.0}, 4),
}
"""Options and passes of an update, for every method that can be attached."""


def small_net(norm=False):
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, 3)]
    return (
        nn.Sequential(*layers[:2], nn.BatchNorm1d(8), *layers[2:])
        if norm
        else nn.Sequential(*layers)
    )


def batches(count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield torch.randn(8, 36, generator=generator), torch.randint(3, (8,), generator=generator)


def sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)


def updates(passes, first=0, stop=STEPS):
    """The passes of each update."""
    data = list(batches(stop * passes))
    return [data[n * passes : (n + 1) * passes] for n in range(first, stop)]


def by_hand(method, options, passes, net=None):
    """Weights of the loop that perturbs in blocks."""
    net = net or small_net()
    optimizer, noisy = sgd(net), Perturbed(net, method, micro_batches=passes, **options)
    for step, update in enumerate(updates(passes)):
        for micro_batch, (x, y) in enumerate(update):
            with noisy(step, micro_batch):
                (noisy.weight * F.cross_entropy(net(x), y)).backward()
        optimizer.step()
        optimizer.zero_grad()
        noisy.end_step()
    noisy.close()
    return net.state_dict()


def train(net, optimizer, todo, passes=1):
    """The loop of somebody who has never heard of perturbation."""
    for update in todo:
        for x, y in update:
            (F.cross_entropy(net(x), y) / passes).backward()
        optimizer.step()
        optimizer.zero_grad()


def attached(method, options, passes, net=None, **more):
    net = net or small_net()
    optimizer = sgd(net)
    noisy = Perturbed(net, method, **options, **more).attach(optimizer, micro_batches=passes)
    return net, optimizer, noisy


def test_every_method_can_be_attached_or_is_refused_with_the_other_form():
    assert CASES.keys() | {"sam", "asam"} == METHODS.keys()
    for method in ("sam", "asam"):
        with pytest.raises(ConfigError, match="two passes") as refused:
            attached(method, {}, 1)
        assert refused.value.key == "method" and "with noisy(step" in refused.value.cure


@pytest.mark.parametrize("method", CASES)
def test_an_unchanged_loop_gets_the_bits_of_the_loop_with_blocks(method):
    options, passes = CASES[method]
    net, optimizer, noisy = attached(method, options, passes)
    train(net, optimizer, updates(passes), passes)
    assert same_bits(net.state_dict(), by_hand(method, options, passes))
    assert noisy.stats()["steps"] == STEPS


@pytest.mark.parametrize("method", CASES)
def test_a_step_with_a_closure_gets_the_same_bits(method):
    """As Lightning steps: forward and backward inside ``optimizer.step``."""
    options, passes = CASES[method]
    net, optimizer, _ = attached(method, options, passes)
    for update in updates(passes):

        def closure(update=update):
            optimizer.zero_grad()
            for x, y in update:
                (F.cross_entropy(net(x), y) / passes).backward()

        optimizer.step(closure)
    assert same_bits(net.state_dict(), by_hand(method, options, passes))


@pytest.mark.parametrize(("passes", "lambda_"), [(3, 0.5), (2, 0.3), (2, 1.0)])
def test_unequal_roles_are_weighed_without_touching_the_loss(passes, lambda_):
    options = {"sigma": 0.1, "eta": 20.0, "lambda_": lambda_}
    net, optimizer, _ = attached("m-arwp", options, passes)
    train(net, optimizer, updates(passes), passes)
    wanted = by_hand("m-arwp", options, passes)
    for name, weight in net.state_dict().items():
        torch.testing.assert_close(weight, wanted[name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("method", CASES)
def test_a_resumed_loop_equals_an_uninterrupted_one_to_the_bit(method):
    options, passes = CASES[method]
    net, optimizer, noisy = attached(method, options, passes)
    train(net, optimizer, updates(passes, stop=3), passes)
    saved = copy.deepcopy([part.state_dict() for part in (net, optimizer, noisy)])
    net, optimizer, noisy = attached(method, options, passes)
    for part, state in zip((net, optimizer, noisy), saved, strict=True):
        part.load_state_dict(state)
    train(net, optimizer, updates(passes, first=3), passes)
    assert same_bits(net.state_dict(), by_hand(method, options, passes))


def test_an_evaluation_a_checkpoint_and_a_failure_in_the_middle_find_clean_weights():
    net, optimizer, noisy = attached("rwp", {"sigma": 0.5}, 1)
    (x, y), *_ = batches(1)
    clean = {name: p.detach().clone() for name, p in net.named_parameters()}

    def is_clean():
        return same_bits(clean, {name: p.detach() for name, p in net.named_parameters()})

    loss = F.cross_entropy(net(x), y)
    assert not is_clean()
    with torch.no_grad():
        net(x)  # an evaluation that leaves the network in training mode
    assert is_clean()
    loss = F.cross_entropy(net(x), y)
    net.eval()(x)
    assert is_clean()
    net.train()
    loss = F.cross_entropy(net(x), y)
    saved = net.state_dict()
    assert is_clean() and same_bits(clean, saved)
    with pytest.raises(ValueError, match="batch"):
        F.cross_entropy(net(x), y[:3])  # a pass that fails
    net.state_dict()
    assert is_clean()
    loss = F.cross_entropy(net(x), y)
    loss.backward()
    optimizer.step()
    assert not is_clean() and noisy.stats()["perturbed_passes"] == 5


def overflow(method, passes):
    """A GradScaler skips an update: clean weights, and other noise for the next."""
    options, _ = CASES[method]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    net, optimizer, noisy = attached(method, options, passes, scaler=scaler)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    seen, bad = [], True
    for x, y in updates(passes, stop=1)[0]:
        loss = F.cross_entropy(net(x), y) / passes
        seen.append(net[1].weight.detach().clone())
        scaler.scale(loss * (float("inf") if bad else 1.0)).backward()
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    noisy.stats()
    restored = same_bits(before, {name: p.detach() for name, p in net.named_parameters()})
    for x, y in updates(passes, stop=1)[0]:
        loss = F.cross_entropy(net(x), y) / passes
        seen.append(net[1].weight.detach().clone())
        scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    return restored, seen, noisy.stats()


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("method", ["rwp", "m-arwp"])
def test_a_forced_overflow_leaves_clean_weights_and_fresh_noise(method, set_to_none, monkeypatch):
    """davda54/sam, issue 55."""
    zero_grad = torch.optim.Optimizer.zero_grad
    monkeypatch.setattr(
        torch.optim.Optimizer, "zero_grad", lambda self: zero_grad(self, set_to_none)
    )
    passes = CASES[method][1]
    restored, seen, stats = overflow(method, passes)
    assert restored
    assert not torch.equal(seen[passes - 1], seen[-1])
    assert (stats["steps"], stats["skipped_steps"]) == (2, 1)


def test_a_loss_scale_that_is_unknown_is_refused_where_it_matters():
    (x, _), *_ = batches(1)
    for method, passes in (("rwp", 1), ("arwp", 1)):
        net, _, _ = attached(method, {}, passes)
        with torch.autocast("cpu", torch.float16):
            if method == "rwp":
                net(x)
                continue
            with pytest.raises(ConfigError, match="true size") as refused:
                net(x)
            assert refused.value.key == "scaler" and "m-rwp" in refused.value.cure


def said(action):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        action()
    return [str(w.message) for w in caught if str(w.message).startswith("Perturbed")]


@pytest.mark.parametrize(("told", "taken"), [(2, 1), (1, 2), (2, 3)])
def test_another_number_of_passes_than_was_said_is_noticed_once(told, taken):
    net, optimizer, _ = attached("rwp", {}, told)
    (sentence,) = said(lambda: train(net, optimizer, updates(taken), taken))
    assert "micro_batches" in sentence


def test_a_mixed_method_with_one_pass_is_refused_and_rwp_named():
    with pytest.raises(ConfigError, match="one pass") as refused:
        attached("m-rwp", {}, 1)
    assert "rwp" in refused.value.cure


def test_a_network_that_is_called_by_another_method_is_noticed_once():
    net, optimizer, _ = attached("rwp", {}, 1)
    (x, y), *_ = batches(1)

    def loop():
        for _ in range(3):
            F.cross_entropy(net.forward(x), y).backward()
            optimizer.step()

    (sentence,) = said(loop)
    assert "forward" in sentence


def test_parameters_that_are_frozen_later_are_noticed_once():
    net, optimizer, _ = attached("rwp", {}, 1)
    train(net, optimizer, updates(1, stop=2))
    net[1].weight.requires_grad_(False)
    (sentence,) = said(lambda: train(net, optimizer, updates(1)))
    assert "frozen" in sentence


def test_detach_leaves_no_hook_behind():
    net = small_net()
    optimizer = sgd(net)

    def hooks():
        parts = (net._forward_pre_hooks, net._state_dict_pre_hooks)
        more = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks)
        return [len(part) for part in (*parts, *more)] + [
            len(p._backward_hooks or {}) for p in net.parameters()
        ]

    before = hooks()
    noisy = Perturbed(net, "m-arwp", lambda_=0.3).attach(optimizer, micro_batches=2)
    assert hooks() != before
    noisy.close()
    assert hooks() == before


def test_clipping_by_norm_and_recomputed_activations_do_not_disturb_it():
    results = []
    for recomputed in (False, True):
        net, optimizer, noisy = attached("rwp", {"sigma": 0.1}, 1)
        for ((x, y),) in updates(1):
            if recomputed:
                logits = torch.utils.checkpoint.checkpoint(net, x, use_reentrant=False)
            else:
                logits = net(x)
            F.cross_entropy(logits, y).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()
        results.append(net.state_dict())
        assert noisy.stats()["perturbed_passes"] == STEPS
    assert same_bits(*results)


def test_batchnorm_is_learnt_anew_for_a_method_without_a_clean_pass():
    net, optimizer, noisy = attached("rwp", {"sigma": 0.5}, 1, net=small_net(norm=True))
    train(net, optimizer, updates(1))
    loader = [x for x, _ in batches(3)]
    noisy.update_bn(loader)
    wanted = small_net(norm=True)
    wanted.load_state_dict(net.state_dict())
    torch.optim.swa_utils.update_bn(loader, wanted)
    assert same_bits(net.state_dict(), wanted.state_dict())


def test_an_average_of_the_weights_sees_clean_ones():
    """huggingface/accelerate 3634, pytorch 149138: averages of perturbed weights."""
    net, optimizer, _ = attached("rwp", {"sigma": 0.5}, 1)
    average = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=None, avg_fn=lambda a, w, n: w)
    for update in updates(1):
        train(net, optimizer, [update])
        average.update_parameters(net)
        assert same_bits(dict(average.module.state_dict()), dict(net.state_dict()))


def two_models():
    nets, optimizers = [], []
    for seed in (0, 1):
        net, optimizer, _ = attached("rwp", {"sigma": 0.1, "seed": seed}, 1)
        nets.append(net)
        optimizers.append(optimizer)
    for ((x, y),) in updates(1):
        for net, optimizer in zip(nets, optimizers, strict=True):
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    return nets


def test_two_models_with_two_optimizers_do_not_meet():
    first, second = two_models()
    assert same_bits(first.state_dict(), by_hand("rwp", {"sigma": 0.1, "seed": 0}, 1))
    assert same_bits(second.state_dict(), by_hand("rwp", {"sigma": 0.1, "seed": 1}, 1))


def test_a_compiled_network_is_not_compiled_again():
    """pytorch 183313. Perturbing stays outside the compiled region."""
    net, optimizer, _ = attached("rwp", {"sigma": 0.1}, 1)
    compiled = torch.compile(net, backend="aot_eager")
    torch._dynamo.reset()
    train(compiled, optimizer, updates(1, stop=2))
    counted = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    train(compiled, optimizer, updates(1, first=2, stop=20))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == counted > 0
    assert same_bits(net.state_dict(), attached_weights(20))


def attached_weights(stop):
    net, optimizer, _ = attached("rwp", {"sigma": 0.1}, 1)
    train(net, optimizer, updates(1, stop=stop))
    return net.state_dict()


def on_ranks(method, zero_redundancy):
    """One rank of DDP: weights by ``attach`` and by blocks."""
    options, _ = CASES[method]
    results = []
    for by_attach in (True, False):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ddp = DistributedDataParallel(small_net())
        optimizer = sgd(ddp)
        if zero_redundancy:
            kind = torch.optim.SGD
            optimizer = ZeroRedundancyOptimizer(ddp.parameters(), kind, lr=0.1, momentum=0.9)
        noisy = Perturbed(ddp, method, **options)
        if by_attach:
            noisy.attach(optimizer)
        for step, ((x, y),) in enumerate(updates(1)):
            x = x + torch.distributed.get_rank()
            if by_attach:
                F.cross_entropy(ddp(x), y).backward()
            else:
                with noisy(step):
                    (noisy.weight * F.cross_entropy(ddp(x), y)).backward()
            optimizer.step()
            optimizer.zero_grad()
            if not by_attach:
                noisy.end_step()
        results.append({name: w.clone() for name, w in ddp.module.state_dict().items()})
        noisy.close()
    return results


@pytest.mark.parametrize("zero_redundancy", [False, True])
@pytest.mark.parametrize("method", ["m-rwp", "m-arwp", "last-sam"])
def test_under_ddp_replicas_are_equal_and_so_are_both_forms(method, zero_redundancy):
    """torch's ZeroRedundancyOptimizer too: facebookresearch/fairscale 989."""
    first, second = run_ranks(on_ranks, 2, method, zero_redundancy)
    assert same_bits(*first) and same_bits(first[0], second[0])
