"""Changed weights: noise by its formula, values on the grid, and the clean ones afterwards."""

import pytest
import torch
from support.small import same_bits, small_net
from torch import nn

from rwp_dist.evaluation import weights as module
from rwp_dist.evaluation.weights import SEED, STEP, ChangedWeights, quantise
from rwp_dist.perturb.normals import PhiloxNormals

CPU = torch.device("cpu")


def snapshot(net):
    return {name: p.detach().clone() for name, p in net.named_parameters()}


@pytest.fixture(params=["native", "torch"])
def backend(request, monkeypatch):
    monkeypatch.setattr(module, "choose_backend", lambda wanted, device: request.param)


@torch.no_grad()
def test_noise_is_that_of_the_reference(backend):
    net = small_net()
    clean, changed, normals = snapshot(net), ChangedWeights(net, CPU), PhiloxNormals(SEED)
    for deviation, draw in ((0.1, 0), (0.1, 1), (0.3, 1)):
        with changed.noisy(deviation, draw):
            noisy = snapshot(net)
        for index, (name, w) in enumerate(clean.items()):
            z = normals.fill(torch.empty_like(w), STEP, draw, index)
            rows = w.flatten(1) if w.ndim > 1 else w[None]
            rms = rows.square().mean(1).sqrt().view(-1, *[1] * (w.ndim - 1))
            torch.testing.assert_close(noisy[name], w + deviation * rms * z, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_another_run_bears_the_same_draws():
    found = []
    for value in (1.0, 2.0):
        net = small_net()
        for p in net.parameters():
            p.fill_(value)
        with ChangedWeights(net, CPU).noisy(0.1, 3):
            found.append(snapshot(net))
    for name, w in found[0].items():
        torch.testing.assert_close(2 * w, found[1][name])


@torch.no_grad()
def test_weights_and_buffers_come_back_with_all_their_bits():
    net = small_net()
    changed, before = ChangedWeights(net, CPU), {k: v.clone() for k, v in net.state_dict().items()}
    places = [p.data_ptr() for p in net.parameters()]
    for change in (changed.noisy(0.5, 0), changed.quantised(3)):
        with pytest.raises(KeyError), change:
            assert not same_bits(before, net.state_dict())
            raise KeyError
        assert same_bits(before, net.state_dict())
    assert places == [p.data_ptr() for p in net.parameters()]


@pytest.mark.parametrize("bits", [2, 3, 4, 8, 16])
def test_quantised_weights_lie_on_the_grid_of_their_channel_at_the_nearest_place(bits):
    torch.manual_seed(bits)
    w = torch.randn(5, 4, 3, 3) * torch.tensor([1.0, 10, 0.1, 0, 3]).view(-1, 1, 1, 1)
    q = quantise(w, bits)
    largest = 2 ** (bits - 1) - 1
    step = (w.flatten(1).abs().amax(1) / largest).view(-1, 1, 1, 1)
    k = (q / step.where(step > 0, 1.0)).double()
    assert (k - k.round()).abs().max() < 1e-2 and k.round().abs().max() <= largest
    assert ((q - w).abs() <= 0.5 * step * (1 + 1e-3)).all()
    assert len(q[0].unique()) <= 2**bits - 1
    torch.testing.assert_close(q.flatten(1).abs().amax(1), w.flatten(1).abs().amax(1))
    torch.testing.assert_close(quantise(-w, bits), -q)  # symmetric


@torch.no_grad()
def test_biases_and_norm_layers_keep_their_bits():
    net = small_net()
    clean = snapshot(net)
    with ChangedWeights(net, CPU).quantised(4):
        coarse = snapshot(net)
    same = {name for name, w in coarse.items() if torch.equal(w, clean[name])}
    assert same == {name for name, w in clean.items() if w.ndim == 1} and same


@torch.no_grad()
def test_autocast_does_not_keep_casts_of_other_weights():
    net, images = nn.Linear(64, 8), torch.randn(4, 64)

    def outputs():
        with torch.autocast("cpu", torch.bfloat16):
            return net(images)

    clean = outputs()
    with ChangedWeights(net, CPU).quantised(2):
        assert not torch.equal(outputs(), clean)
    assert torch.equal(outputs(), clean)
