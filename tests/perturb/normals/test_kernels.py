"""The Triton kernels, run by Triton's interpreter: they do what the plain formulas say."""

import math
import os
import subprocess
import sys

import pytest
import torch
from scipy import stats
from torch import nn

from rwp_dist.base.errors import ConfigError
from rwp_dist.perturb.normals.backend import check_buckets, choose_backend
from rwp_dist.perturb.normals.philox import PhiloxNormals
from rwp_dist.perturb.normals.triton.fused import FusedEnergy, FusedNoise
from rwp_dist.perturb.rows import list_filters

CPU = torch.device("cpu")
P_VALUE = 1e-6
SHAPES = {
    "conv": (3, 7, 7, 3),  # rows of 147
    "pointwise": (5, 3, 1, 1),
    "linear": (2, 1300),
    "column": (6, 1),
    "long": (1, 4097),
    "position": (1, 2, 8193),  # three pieces
    "piece": (2, 8192),
    "empty_rows": (4, 2, 0),
    "bias": (700,),
    "long_bias": (8200,),
    "gain": (1,),
    "temperature": (),
}


class Net(nn.Module):
    """Parameters of many shapes, laid out as ZeRO does: views of one flat buffer."""

    def __init__(self, dtype=torch.float32, shapes=SHAPES):
        super().__init__()
        torch.manual_seed(0)
        sizes = [math.prod(shape) for shape in shapes.values()]
        self.flat = (torch.randn(sum(sizes) + 1) * 0.3).to(dtype)
        for (name, shape), piece in zip(shapes.items(), self.flat[1:].split(sizes), strict=True):
            self.register_parameter(name, nn.Parameter(piece.view(shape)))


def by_formula(filters, scale, seed, step, draw, sigma, energies=None, eta=0.0, power=0.5):
    """New values of all weights, in fp32, parameter by parameter."""
    new = []
    for f in filters:
        w = f.param.detach().float()
        rows = w.reshape(f.shape[0], -1) if f.many else w.reshape(1, -1)
        unit = PhiloxNormals(seed).fill(torch.empty(f.shape), step, draw, f.index).view_as(rows)
        std = {
            "filter": lambda rows=rows: rows.norm(dim=1, keepdim=True),
            "rms": lambda rows=rows: rows.square().mean(1, keepdim=True).sqrt(),
            "tensor": lambda rows=rows: rows.square().mean().sqrt(),
            "element": lambda rows=rows: rows.abs(),
        }[scale]()
        noise = unit * std * sigma
        if energies is not None:
            F = energies[f.rows]
            noise = noise / (1 + eta * (F[:, None] if f.many else F)) ** power
        new.append((rows + noise).view(f.shape))
    return new


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("scale", ["filter", "rms", "tensor", "element"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_perturbed_weights_equal_the_formulas(dtype, scale, adaptive):
    net = Net(dtype)
    filters = list_filters(net.named_parameters(), ["temperature"])
    kept = net.temperature.clone(), net.flat[0].clone()
    options = {}
    if adaptive:
        energies = torch.rand(filters[-1].rows.stop) * 9
        options = {"energies": energies, "eta": 0.7, "power": 0.25}
    wanted = by_formula(filters, scale, 7, 3, 2, -0.4, **options)
    before = [f.param.detach().clone() for f in filters]
    noise = FusedNoise(filters, scale, 7, CPU)
    elsewhere = [torch.empty_like(f.param) for f in filters]
    noise.add(elsewhere, 3, 2, -0.4, **options)
    assert all(torch.equal(f.param, w) for f, w in zip(filters, before, strict=True))
    noise.add(noise.params, 3, 2, -0.4, **options)
    for f, new, old, copy in zip(filters, wanted, before, elsewhere, strict=True):
        assert torch.equal(f.param, copy), f.name
        # One unit in the last place of bf16, as its rounding amplifies an error of fp32.
        rtol, atol = (2**-7, 1e-6) if dtype == torch.bfloat16 else (1e-5, 1e-5)
        torch.testing.assert_close(f.param.float(), new, rtol=rtol, atol=atol, msg=f.name)
        assert not f.param.numel() or not torch.equal(f.param, old), f.name
    assert torch.equal(net.temperature, kept[0]) and torch.equal(net.flat[0], kept[1])


def test_a_replay_is_bit_equal_wherever_the_weights_lie():
    results = []
    for _ in range(2):
        net = Net()
        noise = FusedNoise(list_filters(net.named_parameters()), "filter", 7, CPU)
        clean = net.flat.clone()
        for step in (4, 5, 4):
            net.flat.copy_(clean)
            noise.add(noise.params, step, 0, 0.1)
            results.append(net.flat.clone())
        # Another storage: DeepSpeed lays parameters anew, and stage 3 in every pass.
        for param in net.parameters():
            param.data = param.data.clone()
        for (_, param), piece in zip(net.named_parameters(), clean[1:].split(
            [p.numel() for p in net.parameters()]), strict=True):  # fmt: skip
            param.data.copy_(piece.view(param.shape))
        noise.add(noise.params, 4, 0, 0.1)
        moved = torch.cat([clean[:1], *(p.data.flatten() for p in net.parameters())])
        assert torch.equal(moved, results[0])
    assert torch.equal(results[0], results[2]) and torch.equal(results[0], results[3])
    assert not torch.equal(results[0], results[1])


def test_weights_in_channels_last_get_the_noise_of_their_place_in_memory():
    net = Net(shapes={"conv": (3, 4, 5, 5)})
    plain = Net(shapes={"conv": (3, 4, 5, 5)})
    net.conv.data = net.conv.data.to(memory_format=torch.channels_last)
    plain.conv.data = net.conv.data.permute(0, 2, 3, 1).contiguous()
    for one in (net, plain):
        noise = FusedNoise(list_filters(one.named_parameters()), "filter", 7, CPU)
        noise.add(noise.params, 0, 0, 0.1)
    assert torch.equal(net.conv.permute(0, 2, 3, 1), plain.conv)


def test_weights_of_another_layout_or_type_are_refused_with_a_cure():
    for tensor in (torch.zeros(4, 6).t(), torch.zeros(3, 3, dtype=torch.float64)):
        net = nn.ParameterDict({"w": nn.Parameter(tensor)})
        with pytest.raises(ConfigError, match=r"cannot perturb w .*noise\.backend=torch"):
            FusedNoise(list_filters(net.named_parameters()), "filter", 7, CPU)


@pytest.mark.parametrize("bucket_bytes", [1, 3_000, 2**20])
def test_energy_equals_the_formula_whatever_the_buckets(bucket_bytes):
    net = Net()
    filters = list_filters(net.named_parameters())
    wanted = torch.rand(filters[-1].rows.stop)
    energies = wanted.clone()
    fused = FusedEnergy(CPU, bucket_bytes)
    for dtype in (torch.float32, torch.bfloat16):
        for f in reversed(filters):
            grad = torch.randn(f.shape).to(dtype)
            if f.name == "linear":
                grad = torch.randn(f.shape[::-1]).to(dtype).t()  # as a matrix product leaves it
            rows = grad.float().reshape(f.shape[0], -1) if f.many else grad.float().reshape(-1, 1)
            wanted[f.rows] += 0.25 * rows.square().sum(1)
            fused.collect(f, grad, 0.25, energies)
        fused.flush()
    torch.testing.assert_close(energies, wanted, rtol=1e-5, atol=1e-6)


def test_a_gradient_that_is_not_finite_spoils_the_energy_of_its_own_filter_only():
    net = Net()
    filters = list_filters(net.named_parameters())
    energies = torch.zeros(filters[-1].rows.stop)
    fused = FusedEnergy(CPU)
    bad = []
    for f in filters:
        grad = torch.ones(f.shape)
        if f.name in ("conv", "bias"):
            grad.view(-1)[200] = math.inf if f.name == "conv" else math.nan
            bad.append(f.rows.start + (1 if f.many else 200))
        fused.collect(f, grad, 1.0, energies)
    fused.flush()
    assert (~energies.isfinite()).nonzero().flatten().tolist() == bad


def kernel_noise(step=0, draw=0, seed=7, shape=(40, 1_000)):
    """What the kernel draws: weights of absolute value 1, perturbed element by element."""
    net = Net(shapes={"w": shape})
    with torch.no_grad():
        net.flat.fill_(1.0)
    noise = FusedNoise(list_filters(net.named_parameters()), "element", seed, CPU)
    noise.add(noise.params, step, draw, 1.0)
    return net.w.detach().double() - 1.0


def test_values_are_standard_normal():
    values = kernel_noise().numpy().ravel()
    n = len(values)
    assert stats.kstest(values, "norm").pvalue > P_VALUE
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        score = ((values**power).mean() - mean) * math.sqrt(n / variance)
        assert 2 * stats.norm.sf(abs(score)) > P_VALUE, power


def test_rows_slots_and_steps_are_independent():
    rows = torch.cat([
        kernel_noise(step, draw, seed, (4, 1_500))
        for step, draw, seed in ((0, 0, 7), (1, 0, 7), (0, 1, 7), (1, 1, 7), (0, 0, 8))
    ])  # fmt: skip
    size = rows.shape[1]
    correlations = (rows @ rows.T / size)[tuple(torch.triu_indices(len(rows), len(rows), 1))]
    assert stats.chi2.sf(float((correlations**2).sum() * size), len(correlations)) > P_VALUE
    largest = float(correlations.abs().max()) * math.sqrt(size)
    assert 2 * stats.norm.sf(largest) * len(correlations) > P_VALUE  # Bonferroni


def test_the_backend_follows_the_device_unless_it_is_chosen(monkeypatch):
    cuda = torch.device("cuda")
    assert choose_backend("auto", cuda) == "triton"
    assert choose_backend("torch", cuda) == "torch"
    assert choose_backend("triton", CPU) == "triton"
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(ConfigError, match="leave the setting at auto"):
        choose_backend("triton", CPU)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert choose_backend("auto", cuda) == "torch"
    with pytest.raises(ConfigError, match="not installed"):
        choose_backend("triton", cuda)


COMPILE = """
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from rwp_dist.perturb.normals.triton import kernels

def compile(kernel, constants, **types):
    types |= dict.fromkeys(constants, "constexpr")
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=types, constexprs=places)
    for capability in (80, 90):
        assert triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["cubin"]

tables = dict(rows="*i32", places="*i64", sums="*fp32")
for scale, adaptive, split, dtype in (
    ("filter", True, True, tl.float32), ("rms", False, False, tl.bfloat16),
    ("tensor", False, False, tl.bfloat16),
):
    compile(
        kernels.perturb_rows, dict(scale=scale, adaptive=adaptive, split=split, dtype=dtype),
        **tables, sizes="*fp32", energies="*fp32", key_low="i32", key_high="i32",
        sigma="fp32", eta="fp32", power="fp32",
    )
compile(kernels.sum_pieces, dict(dtype=tl.bfloat16), **tables)
compile(
    kernels.add_energy_rows, dict(split=True, dtype=tl.bfloat16), **tables,
    energies="*fp32", factor="fp32",
)
"""


def test_the_kernels_compile_to_machine_code_of_gpus_that_are_not_here(tmp_path):
    """What the interpreter lets pass and the compiler does not; 80 is an A100, 90 an H100."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    del environment["TRITON_INTERPRET"]
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_buckets_in_which_collected_gradients_would_change_are_refused():
    small = {"zero_optimization": {"reduce_bucket_size": 1000}}
    scattered = {"zero_optimization": {"contiguous_gradients": False}}
    for extra in (small, scattered):
        with pytest.raises(ConfigError, match=r"reduce_bucket_size of 2,097,152 or more"):
            check_buckets("triton", extra)
        check_buckets("torch", extra)
    check_buckets("triton", {"zero_optimization": {"reduce_bucket_size": 5e8}})
