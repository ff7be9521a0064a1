"""``attach``: any loop gets what the loop with blocks gets."""

import copy
import gc
import warnings
from contextlib import nullcontext

import pytest
import torch
from support.ranks import run_ranks
from support.small import same_bits
from torch import nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from rwp_dist.base.errors import ConfigError
from rwp_dist.perturb import METHODS, Perturbed, Slot, reference
from rwp_dist.perturb.normals import open_normals

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

    def stop():
        net(x)
        raise KeyboardInterrupt  # the user's Ctrl-C, after which a careful loop saves

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
    for error, fail in (
        (ValueError, lambda: F.cross_entropy(net(x), y[:3])),
        (KeyboardInterrupt, stop),
    ):
        with pytest.raises(error):
            fail()
        net.state_dict()
        assert is_clean()
    loss = F.cross_entropy(net(x), y)
    loss.backward()
    optimizer.step()
    assert not is_clean() and noisy.stats()["perturbed_passes"] == 6


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


@pytest.mark.parametrize("change", ["frozen", "added"])
def test_parameters_that_are_frozen_or_added_later_are_noticed_once(change):
    net, optimizer, _ = attached("rwp", {}, 1)
    train(net, optimizer, updates(1, stop=2))
    if change == "frozen":
        net[1].weight.requires_grad_(False)
    else:
        net.append(nn.Linear(3, 3))
    (sentence,) = said(lambda: train(net, optimizer, updates(1)))
    assert change in sentence


@pytest.mark.parametrize("end", ["detach", "forget"])
def test_a_strength_that_is_never_above_0_is_said_at_the_end(end):
    """Somebody's SAM was switched on at an epoch that no run reached."""

    def loop():
        net, optimizer, noisy = attached("rwp", {"sigma": lambda step: 0.1 * (step > 100)}, 1)
        train(net, optimizer, updates(1))
        assert noisy.stats()["strength"] == noisy.stats()["perturbed_passes"] == 0
        if end == "detach":
            noisy.detach()
        del net, optimizer, noisy
        gc.collect()

    (sentence,) = said(loop)
    assert f"no pass was perturbed in {STEPS} steps" in sentence


def test_layers_of_one_shape_never_get_the_same_noise():
    net = nn.Sequential(*(nn.Linear(6, 6, bias=False) for _ in range(3)))
    with torch.no_grad():
        for layer in net:
            layer.weight.copy_(torch.eye(6))  # rows of one norm: equal noise would be equal weights
    optimizer, noises = torch.optim.SGD(net.parameters(), lr=0.0), []
    Perturbed(net, "rwp", sigma=0.1).attach(optimizer, micro_batches=2)
    for _ in range(3 * 2):
        net(torch.randn(2, 6)).sum().backward()
        noises += [(layer.weight - torch.eye(6)).detach().flatten() for layer in net]
        if len(noises) % 6 == 0:
            optimizer.step()
    assert len(noises) == 18
    for number, noise in enumerate(noises):
        for other in noises[:number]:
            assert not (noise == other).any()


def micro_batches_without_sync(count):
    """One rank's weights after some steps of ``count`` passes, of which DDP reduces the last."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ddp = DistributedDataParallel(small_net())
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
    slots = [[Slot(r * count + n, True, 1.0, draw=0) for n in range(count)] for r in range(2)]
    noisy = Perturbed(ddp, "rwp", sigma=0.1, slots=slots, backend="torch")
    noisy.attach(optimizer, micro_batches=count)
    for update in updates(world_size * count):
        mine = update[rank * count : (rank + 1) * count]
        for number, (x, y) in enumerate(mine):
            with ddp.no_sync() if number < count - 1 else nullcontext():
                (F.cross_entropy(ddp(x), y) / count).backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name: w.detach().clone() for name, w in ddp.module.named_parameters()}


def test_micro_batches_without_sync_equal_one_big_batch_in_float64():
    """davda54/sam 3 and 62; one noise for all of them."""
    count = 3
    first, second = run_ranks(micro_batches_without_sync, 2, count)
    assert same_bits(first, second)
    net, normals = small_net().double(), open_normals("torch", 0, torch.device("cpu"))
    weights = {name: p.detach() for name, p in net.named_parameters()}

    def gradient_at(weights, batch):
        leaves = {name: w.clone().requires_grad_() for name, w in weights.items()}
        loss = F.cross_entropy(functional_call(net, leaves, batch[:1]), batch[1])
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))

    for step, update in enumerate(updates(2 * count)):
        big = torch.cat([x for x, _ in update]).double(), torch.cat([y for _, y in update])
        unit = {
            name: normals.fill(torch.empty(w.shape), step, 0, index).double()
            for index, (name, w) in enumerate(weights.items())
        }
        gradient = reference.rwp(gradient_at, weights, big, 0.1, unit)
        weights = {name: w - 0.1 * gradient[name] for name, w in weights.items()}
    for name, w in weights.items():
        torch.testing.assert_close(first[name].double(), w, rtol=1e-5, atol=1e-6)


class Reads(TorchDispatchMode):
    """Counts how often a tensor's value is read on the host, for which a GPU would be waited."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", CASES)
def test_no_step_reads_a_value_from_the_device(method):
    options, passes = CASES[method]
    net, optimizer, _ = attached(method, options, passes, backend="torch")
    with Reads() as reads:
        train(net, optimizer, updates(passes), passes)
    assert reads.count == 0
    with reads:
        torch.ones(1).item()
    assert reads.count == 1


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


def apart(wrapped):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = small_net()
        model = DistributedDataParallel(net) if wrapped else net
    optimizer = sgd(net)
    Perturbed(model, "m-rwp", sigma=0.1).attach(optimizer)
    return said(lambda: train(model, optimizer, updates(1), 1))


@pytest.mark.parametrize("wrapped", [True, False])
def test_ranks_that_train_apart_are_noticed_once(wrapped):
    """A Trainer that finds no GPU may leave the network without DDP, and say little."""
    for sentences in run_ranks(apart, 2, wrapped):
        assert len(sentences) == (not wrapped)
        assert all("train apart" in sentence for sentence in sentences)
