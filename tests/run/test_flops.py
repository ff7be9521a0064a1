"""Operations of a network: by hand, without a trace, and over the peak of a device."""

import pytest
import torch
import torchvision
from support.small import SIZE, SmallNet
from torch import nn

from rwp_dist.run.flops import count_flops, peak_tflops, profile_pass


def test_products_count_twice_forward_and_for_each_gradient_that_is_needed():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    forward = [2 * 4 * 5, 2 * 5 * 3]
    assert count_flops(net, 1, 2) == 2 * forward[0] + 3 * forward[1]
    net[1].requires_grad_(False)
    assert count_flops(net, 1, 2) == forward[0] + 2 * forward[1]


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_convolutions_count_the_products_of_their_groups_alone(kind, groups):
    first = nn.Conv2d(1, 4, 1)  # [1, 6, 6] -> [4, 6, 6]
    net = nn.Sequential(first, kind(4, 8, 3, stride=2, groups=groups), nn.Flatten())
    pixels = 36 if kind is nn.ConvTranspose2d else 4  # of its input, or of its output
    forward = 2 * pixels * 9 * 4 * 8 // groups
    assert count_flops(net, 1, 6) == 2 * (2 * 36 * 4) + 3 * forward


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "vit_b_32"])
def test_networks_have_three_times_what_torchvision_says_of_their_forward_pass(name):
    with torch.device("meta"):
        net = torchvision.models.get_model(name)
    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    # It counts a multiplication and its addition as one.
    published = 2e9 * weights.meta["_ops"]
    # The first layer has no gradient by the image.
    assert count_flops(net, 3, 224) == pytest.approx(3 * published, rel=0.03)


class Dropping(SmallNet):
    """Draws random numbers and learns statistics."""

    def forward(self, images):
        return super().forward(nn.functional.dropout(images))


def test_counting_leaves_no_trace():
    net = Dropping()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    state = torch.get_rng_state()
    with torch.no_grad():  # whatever the caller is doing
        assert count_flops(net, 1, SIZE) == count_flops(net.eval(), 1, SIZE) == SMALL
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name]) and tensor.device.type == "cpu", name
    for module in net.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
    for param in net.parameters():
        assert param.requires_grad and param.grad is None and not param._backward_hooks


SMALL = 2 * (2 * 36 * 9 * 4) + 3 * (2 * 4 * 9 * 4 * 5) + 3 * (2 * 20 * 6) + 3 * (2 * 6 * 3)
"""Of ``SmallNet``: two convolutions, the first without a gradient by the image; two products."""


class Hiding(nn.Module):
    """Has a tensor that it does not register."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1, 1)
        self.hidden = [torch.ones(1)]

    def forward(self, images):
        return self.linear(images.flatten(1).mean(1, keepdim=True)) @ self.hidden[0]


class Asking(nn.Module):
    """Does what the values of its input say."""

    def forward(self, images):
        return images if images.sum() > 0 else -images


@pytest.mark.parametrize(
    "net", [Hiding(), Asking(), nn.Identity(), nn.LSTM(2, 3), nn.Flatten().requires_grad_(False)]
)
def test_a_network_that_cannot_be_counted_is_no_error(net):
    assert count_flops(net, 1, 2) is None


def test_a_peak_is_of_the_whole_device_in_bf16(monkeypatch):
    cuda = torch.device("cuda", 0)
    for name, peak in {
        "NVIDIA A100-SXM4-40GB": 312,
        "A100-SXM4-40GB": 312,  # drivers before 2021
        "NVIDIA H100 80GB HBM3": 989,
        "NVIDIA H100 PCIe": 756,
        "NVIDIA H200 MIG 1g.18gb": None,
        "NVIDIA GeForce GTX 970": None,
    }.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert peak_tflops(cuda, "bf16") == peak, name
        assert peak_tflops(cuda, "fp32") is None
        assert peak_tflops(torch.device("cpu"), "bf16") is None


def test_gradients_come_in_the_order_and_at_the_share_of_the_backward_pass():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    found = profile_pass(net, 1, 2)
    # The last layer has two gradients of 2 x 15 operations, the first one of 2 x 20.
    [(bias, _), last, _, first] = found.gradients
    assert (bias, last[0], first) == (3, 15, (20, 1.0))
    assert last[1] <= 60 / 100
    assert sum(elements for elements, _ in found.gradients) == 43
    assert found.flops == count_flops(net, 1, 2)


def test_calls_do_not_count_views():
    flat = profile_pass(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), 1, 2)
    more = profile_pass(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Unflatten(1, (3, 1))), 1, 2)
    assert 0 < flat.calls == more.calls
