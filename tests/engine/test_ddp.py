"""The engine without DeepSpeed: the bits of stage 0, whatever takes part in a pass."""

import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from unittest.mock import patch

import pytest
import torch
from support.checkpoints import everything, load, save
from support.methods import METHOD_SETTINGS, overrides
from support.ranks import run_ranks
from support.small import (
    NUM_CLASSES,
    run_all,
    run_steps,
    same_bits,
    small_net,
    small_parts,
    small_settings,
    split_over,
)
from torch import nn

from rwp_dist.base.errors import ConfigError
from rwp_dist.train import train_step


def ends_of(engine, cases):
    ends = []
    for case in cases:
        with small_parts(small_settings(*case, f"engine.name={engine}", steps=4)) as parts:
            run_all(parts)
            ends.append(everything(parts))
    return ends


def test_every_method_has_the_bits_of_deepspeed_at_stage_0():
    cases = [overrides(method, split_over(2, 2)) for method in METHOD_SETTINGS]
    ours, deepspeeds = (run_ranks(ends_of, 2, name, cases) for name in ("ddp", "deepspeed"))
    for here, there in zip(ours, deepspeeds, strict=True):
        for method, a, b in zip(METHOD_SETTINGS, here, there, strict=True):
            assert same_bits(a, b), method


def test_clipped_gradients_are_those_of_deepspeed():
    """Norms are summed in another order."""
    case = overrides("m-rwp", "optimizer.clip_norm=0.5", split_over(2, 2))
    (ours,), (deepspeeds,) = (run_ranks(ends_of, 2, x, [case])[0] for x in ("ddp", "deepspeed"))
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, deepspeeds[name], rtol=1e-5, atol=1e-6)


def resumed_on_three_ranks(folder, unused):
    """A network of many buckets' worth of sums, undisturbed and resumed."""
    settings = small_settings(*overrides("m-rwp", split_over(3, 2)), steps=4)
    with small_parts(settings, wide(unused)) as parts:
        for step in run_steps(parts, 0, 4):
            if step == 1:
                save(folder, parts, 2)
        undisturbed = everything(parts)
    with small_parts(settings, wide(unused)) as parts:
        load(folder, parts)
        run_all(parts, 2)
        return undisturbed, everything(parts)


def wide(unused):
    """Its layers are used in another order than they are registered in."""
    torch.manual_seed(0)
    return Crossed(unused)


class Crossed(nn.Module):
    def __init__(self, unused):
        super().__init__()
        if unused:
            self.unused = nn.Linear(3, 3)
        self.last = nn.Linear(300, NUM_CLASSES)
        self.first = nn.Linear(36, 700)
        self.middle = nn.Linear(700, 300)

    def forward(self, images):
        x = torch.tanh(self.first(images.flatten(1)))
        return self.last(torch.tanh(self.middle(x)))


@pytest.mark.parametrize("unused", [False, True])
def test_ranks_sum_in_one_order_from_the_first_step_on(tmp_path, unused):
    """DDP sorts its buckets anew after the first pass; three ranks sum by the place in them."""
    for undisturbed, resumed in run_ranks(resumed_on_three_ranks, 3, tmp_path, unused):
        assert same_bits(undisturbed, resumed)


class Fickle(nn.Module):
    """A layer has no part in one of the passes."""

    def __init__(self, without):
        super().__init__()
        self.without = without
        self.net, self.other = small_net(), nn.Linear(NUM_CLASSES, NUM_CLASSES)
        self.passes = 0

    def forward(self, images):
        x = self.net(images)
        self.passes += 1
        return x if self.passes == self.without else self.other(x)


def train_fickle(without):
    settings = small_settings("method.name=sgd", steps=3)
    with small_parts(settings, Fickle(without)) as parts:
        for step in run_steps(parts, 0, 3):
            assert step < 2, "ranks must not step apart, also in the last step"


@pytest.mark.parametrize("last", [False, True])
def test_a_network_that_uses_other_parameters_in_a_pass_is_refused_with_the_cure(last):
    """The first two passes are those that try the network and count its operations."""
    with pytest.raises(ConfigError, match=r"engine\.name: Distributed.*set it to deepspeed"):
        run_ranks(train_fickle, 2, 5 if last else 3)


def ends_after_infinity(name, infinite):
    """Weights and optimizer state after four updates, of which some have a gradient of infinity."""
    with small_parts(small_settings("method.name=sgd", f"optimizer.name={name}")) as parts:
        engine, images = parts.engine, torch.linspace(-1, 1, 4 * 36).view(4, 1, 6, 6)
        engine.module.eval()  # BatchNorm's statistics count every pass
        for number in range(4):
            if number in infinite:
                engine.backward(engine.forward(images).sum() * float("inf"))
                engine.step(lr=0.1)
            engine.backward(engine.forward(images).square().sum())
            engine.step(lr=0.1)
        assert engine.skipped_steps == len(infinite)
        return everything(parts)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_skipped_updates_leave_no_trace_also_at_the_very_beginning(name):
    (undisturbed,) = run_ranks(ends_after_infinity, 1, name, ())
    for infinite in ((0,), (1, 3)):
        (disturbed,) = run_ranks(ends_after_infinity, 1, name, infinite)
        assert same_bits(disturbed, undisturbed), infinite


WAITING = ("__bool__", "__int__", "__float__", "item", "tolist", "cpu", "nonzero")
"""Methods of a tensor that have the host wait for a GPU."""


def refuse(tensor, *_):
    raise AssertionError("the host would wait for the device")


def train_without_waiting(method, *more):
    def step_without_waiting(parts, number, *more):
        with ExitStack() as stack:
            for name in WAITING if number > 0 else ():
                stack.enter_context(patch.object(torch.Tensor, name, refuse))
            train_step(parts, number, *more)

    case = overrides(method, split_over(2, 2), *more)
    patched = patch("support.small.train_step", step_without_waiting)
    with patched, small_parts(small_settings(*case, steps=4)) as parts:
        run_all(parts)


@pytest.mark.parametrize("method", METHOD_SETTINGS)
@pytest.mark.parametrize(
    "more",
    [("optimizer.clip_norm=0.5",), ("precision=fp16", "optimizer.clip_agc=0.05")],
    ids=["fp32", "fp16"],
)
def test_after_the_first_update_the_host_never_waits_for_the_device(method, more):
    run_ranks(train_without_waiting, 2, method, *more)


def said_of_unused_parameters():
    """What a rank writes on stderr, by whatever language."""
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            with small_parts(small_settings("method.name=sgd"), wide(unused=True)) as parts:
                run_all(parts, 0, 2)
        finally:
            os.dup2(kept, 2)
        file.seek(0)
        return file.read().decode()


def test_unused_parameters_are_no_reason_to_warn_of_parameters_that_are_used():
    for said in run_ranks(said_of_unused_parameters, 2):
        assert "unused" not in said


def test_a_run_loads_no_deepspeed(tmp_path):
    script = """
import sys
from rwp_dist.config import load_settings
from rwp_dist.process.group import choose_device, process_group
from support.small import run_all, small_parts, small_settings
with process_group(choose_device("cpu")), small_parts(small_settings("method.name=m-rwp")) as parts:
    run_all(parts, 0, 2)
print([name for name in sys.modules if name.partition(".")[0] == "deepspeed"])
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, cwd="tests"
    )
    assert (done.stdout.splitlines()[-1], done.stderr) == ("[]", "")  # after names of stages
