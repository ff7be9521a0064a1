"""``attach``: any loop gets what the loop with blocks gets."""

import copy
import gc
import pickle
import warnings
from contextlib import nullcontext

import pytest
import torch
from support.ranks import run_ranks
from support.reads import Reads
from support.small import same_bits
from torch import nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

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


def by_hand(method, options, passes, net=None, clip=None):
    """Weights of the loop that perturbs in blocks."""
    net = net or small_net()
    optimizer, noisy = sgd(net), Perturbed(net, method, micro_batches=passes, **options)
    for step, update in enumerate(updates(passes)):
        for micro_batch, (x, y) in enumerate(update):
            with noisy(step, micro_batch):
                (noisy.weight * F.cross_entropy(net(x), y)).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(net.parameters(), clip)
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


@pytest.mark.parametrize("by_keyword", [False, True])
@pytest.mark.parametrize("method", CASES)
def test_a_step_with_a_closure_gets_the_same_bits(method, by_keyword):
    """As Lightning steps: forward and backward inside ``optimizer.step``."""
    options, passes = CASES[method]
    net, optimizer, _ = attached(method, options, passes)
    for update in updates(passes):

        def closure(update=update):
            optimizer.zero_grad()
            for x, y in update:
                (F.cross_entropy(net(x), y) / passes).backward()

        if by_keyword:
            optimizer.step(closure=closure)
        else:
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


@pytest.mark.parametrize("into", ["another", "the same", "before attach"])
@pytest.mark.parametrize("method", CASES)
def test_a_resumed_loop_equals_an_uninterrupted_one_to_the_bit(method, into):
    options, passes = CASES[method]
    net, optimizer, noisy = attached(method, options, passes)
    train(net, optimizer, updates(passes, stop=3), passes)
    saved = copy.deepcopy([part.state_dict() for part in (net, optimizer, noisy)])
    if into == "the same":
        train(net, optimizer, updates(passes, first=3, stop=5), passes)
        net(torch.randn(8, 36)).sum().backward()
        optimizer.zero_grad()
    elif into == "another":
        net, optimizer, noisy = attached(method, options, passes)
    else:
        net = small_net()
        optimizer, noisy = sgd(net), Perturbed(net, method, **options)
    for part, state in zip((net, optimizer, noisy), saved, strict=True):
        part.load_state_dict(state)
    if into == "before attach":
        noisy.attach(optimizer, micro_batches=passes)
    train(net, optimizer, updates(passes, first=3), passes)
    assert same_bits(net.state_dict(), by_hand(method, options, passes))


def conv_net():
    """Its backward pass reads the weights again, which that of a linear layer does not."""
    torch.manual_seed(0)
    layers = nn.Unflatten(1, (1, 6, 6)), nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(64, 3))


def weights_in(net):
    """What the next forwards of a network see, in a list that fills."""
    seen = []
    net[1].register_forward_pre_hook(lambda layer, _: seen.append(layer.weight.detach().clone()))
    return seen


@pytest.mark.parametrize("method", CASES)
def test_an_evaluation_and_a_checkpoint_in_the_middle_of_a_pass_are_clean_and_change_nothing(
    method,
):
    options, passes = CASES[method]
    net, optimizer, noisy = attached(method, options, passes, net=conv_net())
    seen, (probe, _) = weights_in(net), next(batches(1, seed=5))
    for update in updates(passes):
        clean = None
        for x, y in update:
            loss = F.cross_entropy(net(x), y) / passes
            with torch.no_grad():
                net(probe)  # in training mode, as some metrics do
            net.eval()(probe)
            net.train()
            saved = net.state_dict()["1.weight"].clone()
            clean = seen[-1] if clean is None else clean
            assert torch.equal(seen[-1], clean) and torch.equal(seen[-2], clean)
            assert torch.equal(saved, clean)
            loss.backward()
        noisy.stats()
        optimizer.step()
        optimizer.zero_grad()
    assert same_bits(net.state_dict(), by_hand(method, options, passes, net=conv_net()))


def test_forwards_before_one_backward_are_one_pass():
    """Two views of a batch, and a loss that was thrown away."""
    net, optimizer, noisy = attached("rwp", {"sigma": 0.1}, 1, net=conv_net())
    wanted = conv_net()
    other = sgd(wanted)
    block = Perturbed(wanted, "rwp", sigma=0.1)
    for step, ((x, y),) in enumerate(updates(1)):
        with pytest.raises(ValueError, match="batch"):
            F.cross_entropy(net(x), y[:3])
        (F.cross_entropy(net(x), y) + F.cross_entropy(net(-x), y)).backward()
        optimizer.step()
        optimizer.zero_grad()
        with block(step):
            (F.cross_entropy(wanted(x), y) + F.cross_entropy(wanted(-x), y)).backward()
        other.step()
        other.zero_grad()
        block.end_step()
    assert same_bits(net.state_dict(), wanted.state_dict())
    assert (noisy.stats()["steps"], noisy.stats()["perturbed_passes"]) == (STEPS, STEPS)


def test_after_ctrl_c_in_a_pass_a_checkpoint_is_clean():
    net, _, _ = attached("rwp", {"sigma": 0.5}, 1)
    (x, _), *_ = batches(1)
    clean = {name: w.clone() for name, w in net.state_dict().items()}
    with pytest.raises(KeyboardInterrupt):
        net(x)
        raise KeyboardInterrupt
    assert not torch.equal(net[1].weight, clean["1.weight"])
    assert same_bits(clean, net.state_dict())


def test_weights_that_are_loaded_in_the_middle_of_a_pass_stay():
    net, optimizer, _ = attached("m-rwp", {"sigma": 0.1}, 2)
    train(net, optimizer, updates(2, stop=2), 2)
    net(torch.randn(8, 36))  # a pass that comes to nothing
    net.load_state_dict(small_net().state_dict())
    assert same_bits(net.state_dict(), small_net().state_dict())
    train(net, optimizer, updates(2, stop=2), 2)


def test_attaching_again_replaces_what_was_attached():
    """A cell of a notebook that runs twice."""
    net = small_net()
    optimizer = sgd(net)
    for _ in range(2):
        noisy = Perturbed(net, "rwp", sigma=0.1).attach(optimizer)
    noisy.attach(optimizer)
    train(net, optimizer, updates(1))
    assert same_bits(net.state_dict(), by_hand("rwp", {"sigma": 0.1}, 1))


def test_attaching_in_the_middle_of_a_run_goes_on_with_it():
    options, passes = CASES["m-arwp"]
    net, optimizer, noisy = attached("m-arwp", options, passes)
    train(net, optimizer, updates(passes, stop=3), passes)
    noisy.detach()
    noisy.attach(optimizer)  # with as many passes as before
    train(net, optimizer, updates(passes, first=3), passes)
    assert same_bits(net.state_dict(), by_hand("m-arwp", options, passes))


def test_an_optimizer_of_another_network_and_a_block_in_the_loop_are_refused():
    net, _, noisy = attached("rwp", {}, 1)
    with pytest.raises(ConfigError, match="none of the network's parameters"):
        noisy.attach(sgd(small_net()))
    with pytest.raises(ConfigError, match="needs no block"), noisy(0):
        net(torch.randn(8, 36))


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


@pytest.mark.parametrize("method", ["rwp", "arwp", "m-arwp"])
def test_a_step_that_the_scaler_skips_leaves_averages_checkpoints_and_the_log_right(method):
    """In torchvision's order, where the bad gradient is there until the next forward."""
    options, passes = CASES[method]

    def loop(resumed):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        net, optimizer, noisy = attached(method, options, passes, scaler=scaler)
        average = torch.optim.swa_utils.AveragedModel(net, avg_fn=lambda a, w, n: w)
        for step, update in enumerate(updates(passes)):
            for number, (x, y) in enumerate(update):
                loss = F.cross_entropy(net(x), y) / passes
                if number == 0:
                    optimizer.zero_grad()
                scaler.scale(loss * (float("inf") if step == 3 else 1.0)).backward()
            scaler.step(optimizer)
            scaler.update()
            average.update_parameters(net)
            weights = {name: p.detach() for name, p in net.named_parameters()}
            assert same_bits(average.module.state_dict(), weights)
            assert same_bits(weights, net.state_dict())
            if resumed and step == 3:
                parts = net, optimizer, scaler, noisy
                saved = copy.deepcopy([part.state_dict() for part in parts])
                scaler = torch.amp.GradScaler("cpu")
                net, optimizer, noisy = attached(method, options, passes, scaler=scaler)
                for part, state in zip((net, optimizer, scaler, noisy), saved, strict=True):
                    part.load_state_dict(state)
                average = torch.optim.swa_utils.AveragedModel(net, avg_fn=lambda a, w, n: w)
        stats = noisy.stats()
        if not resumed:
            assert (stats["steps"], stats["skipped_steps"]) == (STEPS, 1)
        return net.state_dict()

    ends = []
    assert said(lambda: ends.extend([loop(False), loop(True)])) == []
    assert same_bits(*ends)


def test_detaching_gives_the_scaler_back():
    scaler = torch.amp.GradScaler("cpu")
    step = scaler.step
    _, _, noisy = attached("rwp", {}, 1, scaler=scaler)
    assert scaler.step != step
    noisy.detach()
    assert scaler.step == step


class Accelerated(nn.Sequential):
    """Autocast inside the network's forward, as Accelerate puts it."""

    def forward(self, x):
        with torch.autocast("cpu", torch.float16):
            return super().forward(x)


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
            net, _, _ = attached(method, {}, passes, net=Accelerated(*small_net()))
            with pytest.raises(ConfigError, match="true size"):
                net(x)
            assert refused.value.key == "scaler" and "m-rwp" in refused.value.cure
            net.eval()(x)
            copy.deepcopy(net)(x)  # an average of the weights, in an evaluation


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


def test_a_mixed_method_whose_updates_have_no_perturbed_pass_says_so():
    net, optimizer, _ = attached("m-rwp", {}, 2)
    (sentence,) = said(lambda: train(net, optimizer, updates(1), 1))
    assert "1 of 2 passes of a rank and none was perturbed" in sentence
    net, optimizer, _ = attached("m-rwp", {}, 4)
    (sentence,) = said(lambda: train(net, optimizer, updates(3), 3))
    assert "3 of 4 passes of a rank;" in sentence


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


def test_a_pass_that_never_came_is_not_said_to_have_strength_0():
    net, optimizer, noisy = attached("m-rwp", {"sigma": 0.1}, 2)
    (sentence,) = said(lambda: (train(net, optimizer, updates(1)), noisy.close()))
    assert "1 of 2 passes" in sentence


def test_the_state_of_another_method_or_seed_is_refused():
    _, _, noisy = attached("rwp", {}, 1)
    for other in (Perturbed(small_net(), "arwp"), Perturbed(small_net(), "rwp", seed=1)):
        with pytest.raises(ConfigError, match="the state is of"):
            other.load_state_dict(noisy.state_dict())


def test_copies_of_the_network_train_on_their_own():
    net, optimizer, _ = attached("rwp", {"sigma": 0.1}, 1)
    copies = copy.deepcopy(net), pickle.loads(pickle.dumps(net))
    for one in copies:
        alone = small_net()
        train(one, sgd(one), updates(1))
        train(alone, sgd(alone), updates(1))
        assert same_bits(one.state_dict(), alone.state_dict())
    train(net, optimizer, updates(1))
    assert same_bits(net.state_dict(), by_hand("rwp", {"sigma": 0.1}, 1))


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
    noisy = Perturbed(ddp, "rwp", sigma=0.1, exclude=(), slots=slots, backend="torch")
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


def test_with_a_scaler_no_more_is_read_than_the_scaler_reads():
    def reads_of(perturbed):
        net, scaler = small_net(), torch.amp.GradScaler("cpu")
        optimizer = sgd(net)
        if perturbed:
            Perturbed(net, "m-rwp", scaler=scaler).attach(optimizer, micro_batches=2)
        with Reads() as reads:
            for update in updates(2):
                for x, y in update:
                    scaler.scale(F.cross_entropy(net(x), y) / 2).backward()
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
        return reads.count

    assert reads_of(True) == reads_of(False)


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
    train(net, optimizer, updates(2, stop=3), 2)
    noisy.detach()
    assert hooks() == before
    assert noisy.stats()["steps"] == 3


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
    wanted = by_hand("rwp", {"sigma": 0.1}, 1, clip=0.1)
    assert all(same_bits(result, wanted) for result in results)


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


def with_batchnorm(method, lambda_, passes):
    """One rank: statistics after training, a checkpoint that it alone makes, and the weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ddp = DistributedDataParallel(small_net(norm=True), find_unused_parameters=True)
    options, rank = CASES[method][0] | {"lambda_": lambda_}, torch.distributed.get_rank()
    optimizer = sgd(ddp)
    noisy = Perturbed(ddp, method, **options).attach(optimizer, micro_batches=passes)
    for update in updates(2 * passes):
        for number, (x, y) in enumerate(update[rank * passes : (rank + 1) * passes]):
            with ddp.no_sync() if number < passes - 1 else nullcontext():
                (F.cross_entropy(ddp(x), y) / passes).backward()
        if rank == 0:
            ddp.module.state_dict()
            ddp.module.eval()(x)
            ddp.module.train()
        optimizer.step()
        optimizer.zero_grad()
    ddp.eval()(x)  # DDP gives all ranks the buffers at a forward
    learned = ddp.module[2].num_batches_tracked.item(), ddp.module[2].running_mean.clone()
    noisy.close()
    return learned, {name: w.detach().clone() for name, w in ddp.module.named_parameters()}


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("method", ["m-rwp", "m-arwp"])
def test_under_ddp_every_rank_has_statistics_and_one_rank_may_save_alone(method, passes):
    (first, weights), (second, others) = run_ranks(with_batchnorm, 2, method, 0.3, passes)
    assert first[0] == second[0] > 0 and torch.equal(first[1], second[1])
    assert same_bits(weights, others)
    if passes == 1:  # one process with two passes has the same slots
        wanted = by_hand(method, CASES[method][0] | {"lambda_": 0.3}, 2, net=small_net(norm=True))
        for name, w in weights.items():
            torch.testing.assert_close(w, wanted[name], rtol=1e-5, atol=1e-6)


def weights_of_nan():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ddp = DistributedDataParallel(small_net())
    optimizer = sgd(ddp)
    Perturbed(ddp, "m-rwp").attach(optimizer)
    return said(
        lambda: train(ddp, optimizer, [[(torch.full((8, 36), torch.nan), y)] for y in ys()])
    )


def ys():
    return [y for _, y in batches(2)]


def test_weights_that_are_not_numbers_are_no_sign_of_ranks_that_train_apart():
    assert run_ranks(weights_of_nan, 2) == [[], []]
