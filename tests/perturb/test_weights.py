"""Clean weights that stay where they are while a pass sees a perturbed copy."""

import pytest
import torch
from support.small import small_net
from torch.nn import functional as F

from rwp_dist.perturb.weights import PerturbedCopy


def perturb(keeper, params):
    with torch.no_grad(), keeper.perturbing(params) as targets:
        for param, target in zip(params, targets, strict=True):
            torch.add(param, 1.0, out=target)


def test_a_perturbed_pass_never_writes_to_the_clean_weights():
    net, keeper = small_net(), PerturbedCopy()
    params = list(net.parameters())
    own, clean = [p.data for p in params], [p.detach().clone() for p in params]
    for _ in range(2):
        perturb(keeper, params)
        assert all(torch.equal(p, c + 1.0) for p, c in zip(params, clean, strict=True))
        assert all(torch.equal(o, c) for o, c in zip(own, clean, strict=True))
        keeper.restore(last=False)
        assert all(p.data_ptr() == o.data_ptr() for p, o in zip(params, own, strict=True))
    copies = {p.data_ptr() for p in keeper._copies.values()}
    perturb(keeper, params)
    assert {p.data_ptr() for p in params} == copies, "the memory of a pass serves the next one"


def test_gradients_of_a_perturbed_pass_are_those_at_the_perturbed_weights():
    net, keeper = small_net(), PerturbedCopy()
    params = list(net.parameters())
    images, labels = torch.randn(4, 1, 6, 6), torch.arange(4) % 3
    perturb(keeper, params)
    F.cross_entropy(net(images), labels).backward()
    keeper.restore(last=True)
    found = [p.grad.clone() for p in params]
    net.zero_grad()
    with torch.no_grad():
        torch._foreach_add_(params, 1.0)
    F.cross_entropy(net(images), labels).backward()
    assert all(torch.equal(p.grad, g) for p, g in zip(params, found, strict=True))


@pytest.mark.parametrize("bring_back", ["recover", "ensure_clean"])
def test_an_error_at_any_time_leaves_the_clean_weights(bring_back):
    net, keeper = small_net(), PerturbedCopy()
    params = list(net.parameters())
    own, clean = [p.data_ptr() for p in params], [p.detach().clone() for p in params]

    def come_back():
        getattr(keeper, bring_back)()
        assert [p.data_ptr() for p in params] == own
        assert all(torch.equal(p, c) for p, c in zip(params, clean, strict=True))

    with pytest.raises(KeyboardInterrupt), keeper.perturbing(params) as targets:
        targets[0].fill_(1.0)
        raise KeyboardInterrupt
    come_back()
    with pytest.raises(ValueError, match="argument"), keeper.perturbing(params) as targets:
        targets.pop()  # so that the last of the parameters cannot be exchanged
    assert [p.data_ptr() for p in params] != own
    come_back()
    perturb(keeper, params)
    assert [p.data_ptr() for p in params] != own
    come_back()


def test_weights_in_channels_last_have_their_copy_in_channels_last():
    conv = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    keeper = PerturbedCopy()
    perturb(keeper, list(conv.parameters()))
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)
