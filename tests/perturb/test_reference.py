"""``reference``: a loop with these plain functions gets what ``Perturbed`` gets."""

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from rwp_dist.perturb import METHODS, Perturbed, reference
from rwp_dist.perturb.normals import open_normals

STEPS, LR, SEED = 6, 0.1, 7
SIGMA, RHO, ETA, BETA = 0.1, 0.3, 20.0, 0.7


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 6), nn.Tanh(), nn.Linear(6, 3)
    )


def batch_of(number):
    generator = torch.Generator().manual_seed(number)
    images = torch.randn(8, 1, 6, 6, generator=generator)
    return images, torch.randint(3, (8,), generator=generator)


def by_library(method, passes):
    net = small_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=LR)
    strength = {METHODS[method].strength: RHO if METHODS[method].strength == "rho" else SIGMA}
    noisy = Perturbed(
        net,
        method,
        micro_batches=passes,
        seed=SEED,
        eta=ETA,
        beta=BETA,
        exclude=(),
        backend="torch",
        **(strength if METHODS[method].strength else {}),
    )
    for step in range(STEPS):
        for number in range(passes):
            x, y = batch_of(2 * step + number)

            def loss(x=x, y=y):
                return F.cross_entropy(net(x), y)

            with noisy(step, number, loss=loss):
                (noisy.weight * loss()).backward()
        optimizer.step()
        optimizer.zero_grad()
        noisy.end_step()
    noisy.close()
    return {name: p.detach() for name, p in net.named_parameters()}


def by_reference(method, passes):
    net = small_net().double()
    weights = {name: p.detach() for name, p in net.named_parameters()}

    def at(weights, batch):
        leaves = {name: w.clone().requires_grad_() for name, w in weights.items()}
        loss = F.cross_entropy(functional_call(net, leaves, (batch[0].double(),)), batch[1])
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))

    normals = open_normals("torch", SEED, torch.device("cpu"))
    energy = {name: torch.zeros(len(w)).double() for name, w in weights.items()}
    last = None
    for step in range(STEPS):
        batches = [batch_of(2 * step + number) for number in range(passes)]
        unit = {
            name: normals.fill(torch.empty(w.shape), step, passes - 1, index).double()
            for index, (name, w) in enumerate(weights.items())
        }
        match method:
            case "sgd":
                gradient = reference.sgd(at, weights, *batches)
            case "sam":
                gradient = reference.sam(at, weights, *batches, RHO)
            case "asam":
                gradient = reference.asam(at, weights, *batches, RHO)
            case "last-sam":
                gradient = last = reference.last_sam(at, weights, *batches, RHO, last)
            case "rwp":
                gradient = reference.rwp(at, weights, *batches, SIGMA, unit)
            case "m-rwp":
                gradient = reference.m_rwp(at, weights, batches, SIGMA, unit)
            case "arwp":
                gradient, energy = reference.arwp(
                    at, weights, *batches, SIGMA, unit, energy, ETA, BETA
                )
            case "m-arwp":
                gradient, energy = reference.m_arwp(
                    at, weights, batches, SIGMA, unit, energy, ETA, BETA
                )
            case _:
                raise AssertionError(f"reference.py lacks {method}")
        weights = {name: w - LR * gradient[name] for name, w in weights.items()}
    return weights


@pytest.mark.parametrize("method", METHODS)
def test_a_loop_with_the_plain_functions_gets_the_same_weights(method):
    passes = 2 if METHODS[method].mixed else 1
    got, wanted = by_library(method, passes), by_reference(method, passes)
    start = dict(small_net().named_parameters())
    for name, w in wanted.items():
        torch.testing.assert_close(got[name].double(), w, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(start[name].double(), w, atol=1e-3), f"{name} did not move"


def test_each_method_gets_other_weights_than_the_others():
    ends = [
        torch.cat([w.flatten() for w in by_reference(m, 1 + METHODS[m].mixed).values()])
        for m in METHODS
    ]
    for number, one in enumerate(ends):
        for other in ends[:number]:
            assert (one - other).norm() > 1e-3 * one.norm()
