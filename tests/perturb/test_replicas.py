"""Property 1: the optimizer alone moves the weights, so replicas stay the same to the last bit."""

import hashlib
from contextlib import nullcontext
from unittest.mock import patch

import pytest
import torch
from support.ranks import run_ranks
from support.small import run_steps, small_net, small_parts, small_settings, split_over, weights_of
from torch import nn
from torch.func import functional_call

from rwp_dist.perturb.rows import Filter
from rwp_dist.perturb.scale import Deviations
from rwp_dist.process.group import check_replicas

STEPS = 50


class Instead(torch.autograd.Function):
    """Other values in place of a parameter, which gets their gradient."""

    @staticmethod
    def forward(ctx, param, values):
        return values.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad, None


class NetWithCopy(nn.Module):
    """A network that, once asked to, passes images through a copy of its weights."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.on_a_copy = False
        self.noisy = {}

    def forward(self, images):
        if not self.on_a_copy:
            return self.net(images)
        # Clean passes too: at stage 2 all ranks must get their gradients in the same order.
        values = {
            name: Instead.apply(param, self.noisy.get(f"net.{name}", param.detach()))
            for name, param in self.net.named_parameters()
        }
        return functional_call(self.net, values, (images,))


class NeverPerturbed:
    """Stands for the keeper of clean weights in a run that never perturbs them."""

    def __init__(self, model):
        self.model = model

    def perturbing(self, params):
        return nullcontext(params)

    def restore(self, *, last):
        self.model.noisy = {}

    def recover(self):
        pass

    def stepped(self, applied):
        pass

    def ensure_clean(self):
        pass


def perturb_a_copy(parts, model):
    """Let noise go to a copy of the weights; the network's own stay clean throughout."""
    perturbation, original = parts.perturbation, parts.perturbation._add_noise
    model.on_a_copy = True
    perturbation.weights = parts.engine.weights = NeverPerturbed(model)

    def add_noise(slot, step, sigma):
        own = perturbation._parts
        copies = [
            Filter(f.index, f.name, f.param.detach().clone(), f.rows.start)
            for f in perturbation.filters
        ]
        scale = parts.settings.method.scale
        perturbation._parts = [(copies, Deviations(copies, scale, parts.device))]
        original(slot, step, sigma)
        perturbation._parts = own
        model.noisy = {f.name: f.param for f in copies}

    perturbation._add_noise = add_noise


def digests_after_every_step(cases, on_a_copy):
    """For every case and step a digest of this rank's weights, the same for the same bits."""
    results = []
    for overrides in cases:
        model = NetWithCopy(small_net())
        with small_parts(small_settings(*overrides, steps=STEPS), model) as parts:
            if on_a_copy:
                perturb_a_copy(parts, model)
            digests = []
            for step in run_steps(parts, 0, STEPS):
                check_replicas(parts.engine.module, step)
                weights = b"".join(w.numpy().tobytes() for w in weights_of(parts).values())
                digests.append(hashlib.sha256(weights).hexdigest())
            results.append(digests)
    return results


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_replicas_agree_after_every_step_and_with_noise_on_a_separate_copy(precision):
    cases = [
        (f"method.name={method}", f"deepspeed.zero_stage={stage}", f"precision={precision}")
        for method in ("m-rwp", "m-arwp")
        for stage in (0, 1, 2)
    ]
    in_place = run_ranks(digests_after_every_step, 2, cases, False, timeout_s=120)
    on_copies = run_ranks(digests_after_every_step, 2, cases, True, timeout_s=120)
    for number, case in enumerate(cases):
        assert len(set(in_place[0][number])) == STEPS, f"{case}: weights did not move"
        assert in_place[0][number] == in_place[1][number], f"{case}: ranks differ"
        assert in_place[0][number] == on_copies[0][number], f"{case}: differs from a copy"


def test_several_perturbed_passes_of_a_rank_all_start_from_clean_weights():
    """Two of RWP's and, on 4 micro-batches, of m-RWP's passes: the first needs a restore."""
    cases = [
        (f"method.name={method}", f"deepspeed.zero_stage={stage}", split_over(1, 4))
        for method in ("arwp", "m-arwp")
        for stage in (0, 1, 2)
    ]
    (in_place,) = run_ranks(digests_after_every_step, 1, cases, False)
    (on_copies,) = run_ranks(digests_after_every_step, 1, cases, True)
    for number, case in enumerate(cases):
        assert in_place[number] == on_copies[number], case


def subtract_noise_again():
    """Break the property as the authors' code does: take the noise off by subtraction."""

    def restore(self, *, last):
        for param, clean in self._clean:
            clean.copy_(param.data - (param.data - clean))
        self.recover()

    with patch("rwp_dist.engine.engine.PerturbedCopy.restore", restore):
        return digests_after_every_step([("method.name=m-rwp", "deepspeed.zero_stage=0")], False)


def test_restoring_by_subtraction_would_be_noticed():
    from rwp_dist.base.errors import ReplicaError

    with pytest.raises(ReplicaError, match="After step 0 the weights of rank 1 differ"):
        run_ranks(subtract_noise_again, 2)
