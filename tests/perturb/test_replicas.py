"""Property 1: the optimizer alone moves the weights, so replicas stay the same to the last bit."""

import hashlib
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from support.ranks import run_ranks
from support.small import run_steps, small_net, small_parts, small_settings, split_over, weights_of
from torch import nn
from torch.func import functional_call

from rwp_dist.base.errors import ReplicaError
from rwp_dist.process.replicas import check_replicas

STEPS = 20


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
        """Perturbed weights by parameter."""

    def forward(self, images):
        if not self.on_a_copy:
            return self.net(images)
        # Clean passes too: at stage 2 all ranks must get their gradients in the same order.
        values = {
            name: Instead.apply(param, self.noisy.get(param, param.detach()))
            for name, param in self.net.named_parameters()
        }
        return functional_call(self.net, values, (images,))


class OnACopy:
    """Clean weights of a run that never touches them: noise goes to a copy."""

    whole = True

    def __init__(self, model):
        self.model = model
        model.on_a_copy = True

    @contextmanager
    def perturbing(self, params):
        copies = [param.detach().clone() for param in params]
        yield copies
        self.model.noisy |= zip(params, copies, strict=True)

    def restore(self, *, last):
        self.model.noisy = {}

    def recover(self):
        self.model.noisy = {}

    def stepped(self, applied):
        assert not self.model.noisy

    def ensure_clean(self):
        pass


def perturb_a_copy(parts, model):
    """Let perturbed passes see a copy of the weights; the network's own stay clean throughout."""
    weights, move = OnACopy(model), parts.perturbed.move
    parts.perturbed.weights = parts.engine.weights = weights
    move.network = replace(move.network, weights=weights)


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


def compare(world_size, cases):
    in_place = run_ranks(digests_after_every_step, world_size, cases, False)
    on_copies = run_ranks(digests_after_every_step, world_size, cases, True)
    for number, case in enumerate(cases):
        first = in_place[0][number]
        assert len(set(first)) == STEPS, f"{case}: weights did not move"
        assert all(rank[number] == first for rank in in_place), f"{case}: ranks differ"
        assert on_copies[0][number] == first, f"{case}: differs from a copy"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_replicas_agree_after_every_step_and_with_noise_on_a_separate_copy(precision):
    compare(
        2,
        [
            (f"method.name={method}", f"deepspeed.zero_stage={stage}", f"precision={precision}")
            for method in ("m-rwp", "m-arwp")
            for stage in (0, 1, 2)
        ],
    )


def test_moves_along_gradients_compute_what_they_do_on_a_separate_copy():
    compare(
        2,
        [
            (f"method.name={method}", f"deepspeed.zero_stage={stage}")
            for method in ("sam", "asam", "last-sam")
            for stage in (0, 1, 2)
        ],
    )


def test_several_perturbed_passes_of_a_rank_all_start_from_clean_weights():
    """All four of RWP's and two of m-RWP's passes: all but the last need a restore."""
    compare(
        1,
        [
            (f"method.name={method}", f"deepspeed.zero_stage={stage}", split_over(1, 4))
            for method in ("arwp", "m-arwp", "sam", "last-sam")
            for stage in (0, 1, 2)
        ],
    )


def subtract_noise_again():
    """Break the property as the authors' code does: take the noise off by subtraction."""

    def restore(self, *, last):
        for param, clean, _ in self._clean:
            clean.copy_(param.data - (param.data - clean))
        self.recover()

    with patch("rwp_dist.perturb.weights.PerturbedCopy.restore", restore):
        return digests_after_every_step([("method.name=m-rwp", "deepspeed.zero_stage=0")], False)


def test_restoring_by_subtraction_would_be_noticed():
    with pytest.raises(ReplicaError, match="After step 0 the weights of rank 1 differ"):
        run_ranks(subtract_noise_again, 2)
