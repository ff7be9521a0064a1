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
from rwp_dist.perturb.normals.backend import choose_backend, open_normals
from rwp_dist.perturb.normals.philox import PhiloxNormals
from rwp_dist.perturb.normals.triton.fused import FusedEnergy, FusedNoise
from rwp_dist.perturb.rows import list_rows

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


def by_formula(rows, scale, seed, step, draw, sigma, energies=None, eta=0.0, power=0.5):
    """New values of all weights, in fp32, parameter by parameter."""
    new = []
    for r in rows:
        w = r.param.detach().float()
        matrix = w.reshape(r.shape[0], -1) if r.is_matrix else w.reshape(1, -1)
        unit = PhiloxNormals(seed).fill(torch.empty(r.shape), step, draw, r.index).view_as(matrix)
        std = {
            "filter": lambda matrix=matrix: matrix.norm(dim=1, keepdim=True),
            "rms": lambda matrix=matrix: matrix.square().mean(1, keepdim=True).sqrt(),
            "tensor": lambda matrix=matrix: matrix.square().mean().sqrt(),
            "element": lambda matrix=matrix: matrix.abs(),
        }[scale]()
        noise = unit * std * sigma
        if energies is not None:
            F = energies[r.place]
            noise = noise / (1 + eta * (F[:, None] if r.is_matrix else F)) ** power
        new.append((matrix + noise).view(r.shape))
    return new


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("scale", ["filter", "rms", "tensor", "element"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_perturbed_weights_equal_the_formulas(dtype, scale, adaptive):
    net = Net(dtype)
    rows = list_rows(net.named_parameters(), ["temperature"])
    kept = net.temperature.clone(), net.flat[0].clone()
    options = {}
    if adaptive:
        energies = torch.rand(rows[-1].place.stop) * 9
        options = {"energies": energies, "eta": 0.7, "power": 0.25}
    wanted = by_formula(rows, scale, 7, 3, 2, -0.4, **options)
    before = [r.param.detach().clone() for r in rows]
    noise = FusedNoise(rows, scale, 7, CPU)
    elsewhere = [torch.empty_like(r.param) for r in rows]
    noise.add(elsewhere, 3, 2, -0.4, **options)
    assert all(torch.equal(r.param, w) for r, w in zip(rows, before, strict=True))
    noise.add(noise.params, 3, 2, -0.4, **options)
    for r, new, old, copy in zip(rows, wanted, before, elsewhere, strict=True):
        assert torch.equal(r.param, copy), r.name
        # One unit in the last place of bf16, as its rounding amplifies an error of fp32.
        rtol, atol = (2**-7, 1e-6) if dtype == torch.bfloat16 else (1e-5, 1e-5)
        torch.testing.assert_close(r.param.float(), new, rtol=rtol, atol=atol, msg=r.name)
        assert not r.param.numel() or not torch.equal(r.param, old), r.name
    assert torch.equal(net.temperature, kept[0]) and torch.equal(net.flat[0], kept[1])


def test_a_replay_is_bit_equal_wherever_the_weights_lie():
    results = []
    for _ in range(2):
        net = Net()
        noise = FusedNoise(list_rows(net.named_parameters()), "filter", 7, CPU)
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
        noise = FusedNoise(list_rows(one.named_parameters()), "filter", 7, CPU)
        noise.add(noise.params, 0, 0, 0.1)
    assert torch.equal(net.conv.permute(0, 2, 3, 1), plain.conv)


def test_weights_of_another_layout_or_type_are_refused_with_a_cure():
    for tensor in (torch.zeros(4, 6).t(), torch.zeros(3, 3, dtype=torch.float64)):
        net = nn.ParameterDict({"w": nn.Parameter(tensor)})
        with pytest.raises(ConfigError, match="cannot perturb w ") as caught:
            FusedNoise(list_rows(net.named_parameters()), "filter", 7, CPU)
        assert (caught.value.key, caught.value.cure) == ("backend", "set it to torch")


@pytest.mark.parametrize("bucket_bytes", [1, 3_000, 2**20])
def test_energy_equals_the_formula_whatever_the_buckets(bucket_bytes):
    net = Net()
    rows = list_rows(net.named_parameters())
    wanted = torch.rand(rows[-1].place.stop)
    energies = wanted.clone()
    fused = FusedEnergy(CPU, bucket_bytes)
    for dtype in (torch.float32, torch.bfloat16):
        for r in reversed(rows):
            grad = torch.randn(r.shape).to(dtype)
            if r.name == "linear":
                grad = torch.randn(r.shape[::-1]).to(dtype).t()  # as a matrix product leaves it
            matrix = (
                grad.float().reshape(r.shape[0], -1) if r.is_matrix else grad.float().reshape(-1, 1)
            )
            wanted[r.place] += 0.25 * matrix.square().sum(1)
            fused.collect(r, grad, 0.25, energies)
        fused.flush()
    torch.testing.assert_close(energies, wanted, rtol=1e-5, atol=1e-6)


def test_a_gradient_that_is_not_finite_spoils_the_energy_of_its_own_row_only():
    net = Net()
    rows = list_rows(net.named_parameters())
    energies = torch.zeros(rows[-1].place.stop)
    fused = FusedEnergy(CPU, bucket_bytes=2**20)
    bad = []
    for r in rows:
        grad = torch.ones(r.shape)
        if r.name in ("conv", "bias"):
            grad.view(-1)[200] = math.inf if r.name == "conv" else math.nan
            bad.append(r.place.start + (1 if r.is_matrix else 200))
        fused.collect(r, grad, 1.0, energies)
    fused.flush()
    assert (~energies.isfinite()).nonzero().flatten().tolist() == bad


def kernel_noise(step=0, draw=0, seed=7, shape=(40, 1_000)):
    """What the kernel draws: weights of absolute value 1, perturbed element by element."""
    net = Net(shapes={"w": shape})
    with torch.no_grad():
        net.flat.fill_(1.0)
    noise = FusedNoise(list_rows(net.named_parameters()), "element", seed, CPU)
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


@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 7, 7), (1, 8193), (9000,), (), (4, 0)])
def test_tensors_are_filled_with_the_values_that_are_drawn_onto_weights(shape):
    key = {"step": 2, "draw": 1, "index": 3}
    found = open_normals("triton", 7, CPU).fill(torch.empty(shape), **key)
    torch.testing.assert_close(found, PhiloxNormals(7).fill(torch.empty(shape), **key))
    with pytest.raises(ValueError, match="contiguous fp32"):
        open_normals("triton", 7, CPU).fill(torch.empty(4, 4).t(), **key)


def test_the_backend_follows_the_device_unless_it_is_chosen(monkeypatch):
    cuda = torch.device("cuda")
    assert choose_backend("auto", cuda) == "triton"
    assert choose_backend("torch", cuda) == "torch"
    assert choose_backend("triton", CPU) == "triton"
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(ConfigError) as caught:
        choose_backend("triton", CPU)
    assert caught.value.key == "backend" and "leave it at auto" in caught.value.cure
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
    kernels.fill_normals, {}, out="*fp32", length="i32", index="i32", key_low="i32", key_high="i32"
)
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
