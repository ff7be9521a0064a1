"""``normals.c`` draws the noise that ``philox.py`` defines, on any processor to the last bit."""

import ctypes
import os
import platform
import shlex
import subprocess
from importlib.util import find_spec

import pytest
import torch

from rwp_dist.base.errors import ConfigError
from rwp_dist.config import load_settings
from rwp_dist.perturb.normals import native
from rwp_dist.perturb.normals.backend import choose_backend
from rwp_dist.perturb.normals.native import NativeNormals
from rwp_dist.perturb.normals.philox import PhiloxNormals

CPU = torch.device("cpu")
SHAPES = [(1,), (7,), (1300,), (5, 1), (3, 64), (4, 127), (4, 128), (4, 129), (3, 256), (3, 257)]
SHAPES += [
    (3, 384),
    (2, 385),
    (2, 511),
    (2, 512),
    (2, 513),
    (6, 3, 7, 7),
    (2, 5, 1, 129),
    (3, 4608),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_are_those_of_the_reference_and_nothing_else_is_written(shape):
    size = torch.Size(shape).numel()
    memory = torch.full((size + 32,), 77.0)
    NativeNormals(7).fill(memory[16 : 16 + size].view(shape), 3, 2, 9)
    wanted = PhiloxNormals(7).fill(torch.empty(shape), 3, 2, 9)
    # A few units in the last place: the reference takes its logarithms in fp64.
    found = memory[16 : 16 + size].view(shape)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=4e-7)
    assert (memory[:16] == 77.0).all() and (memory[16 + size :] == 77.0).all()


def test_values_agree_with_the_reference_for_many_keys_and_in_the_tails():
    for seed in range(4):
        found = NativeNormals(seed).fill(torch.empty(100, 5_000), seed, 1, 2**31 + seed)
        wanted = PhiloxNormals(seed).fill(torch.empty(100, 5_000), seed, 1, 2**31 + seed)
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=4e-7)
        assert found.abs().max() > 4.0


@pytest.mark.parametrize("shape", [(0, 5), (0,)])
def test_a_parameter_without_elements_gets_none(shape):
    assert NativeNormals(7).fill(torch.empty(shape), 0, 0, 0).shape == shape


def compiled_for(processor, folder):
    """The library for an older processor than this one."""
    path = folder / f"{processor}.so"
    options = [o for o in native.LIBRARY.options if not o.startswith("-march")]
    command = [
        *shlex.split(os.environ.get("CC", "cc")),
        "-shared",
        "-fPIC",
        f"-march={processor}",
        *options,
    ]
    subprocess.run([*command, *native.LIBRARY.files, "-o", path, "-lm"], check=True)
    return ctypes.CDLL(str(path))


@pytest.mark.parametrize("processor", ["x86-64", "x86-64-v3"])
def test_other_processors_get_the_same_bits(processor, tmp_path):
    if platform.machine() != "x86_64" or (processor == "x86-64-v3" and not native.is_fast()):
        pytest.skip("another architecture, or no AVX2")
    noise = NativeNormals(7)
    wanted = noise.fill(torch.empty(40, 4_999), 3, 2, 9)
    noise._fill = compiled_for(processor, tmp_path).fill_normal
    noise._fill.argtypes = native.library().fill_normal.argtypes
    assert torch.equal(noise.fill(torch.empty(40, 4_999), 3, 2, 9), wanted)


def test_it_is_what_a_cpu_takes_where_it_was_seen_to_be_fast(monkeypatch):
    assert load_settings(None, []).noise.backend == "auto"
    for fast, backend in ((True, "native"), (False, "torch")):
        monkeypatch.setattr(native, "is_fast", lambda fast=fast: fast)
        assert choose_backend("auto", CPU) == backend
    assert choose_backend("native", CPU) == "native"
    with pytest.raises(ConfigError, match=r"draws noise on the CPU, .* on cuda; leave .* at auto"):
        choose_backend("native", torch.device("cuda"))


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_a_gpu_without_a_place_for_kernels_is_refused(monkeypatch):
    def refuse():
        raise ConfigError("Triton cannot keep what it compiles", cure="set TRITON_CACHE_DIR")

    monkeypatch.setattr("rwp_dist.perturb.normals.backend.kernels_folder", refuse)
    for wanted in ("auto", "triton"):
        with pytest.raises(ConfigError, match="TRITON_CACHE_DIR"):
            choose_backend(wanted, torch.device("cuda"))


def test_without_a_compiler_auto_takes_torch_and_native_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", "no-such-compiler")
    for function in (native.library, native.is_fast):
        function.cache_clear()
    try:
        assert choose_backend("auto", CPU) == "torch"
        with pytest.raises(ConfigError, match=r"'no-such-compiler'; install .*, or leave"):
            choose_backend("native", CPU)
        monkeypatch.setenv("CC", "cc --no-such-option")
        with pytest.raises(ConfigError, match=r"cannot be compiled \(.*no-such-option"):
            choose_backend("native", CPU)
    finally:
        for function in (native.library, native.is_fast):
            function.cache_clear()
