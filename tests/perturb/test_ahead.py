"""Noise drawn ahead is the noise drawn on the spot, in time, and without a trace elsewhere."""

import threading

import pytest
import torch
from rwp_dist.perturb.perturbation import Perturbation
from support.held import held_bytes
from support.ranks import run_ranks
from support.small import run_steps, same_bits, small_net, small_parts, small_settings, weights_of
from torch import nn

from rwp_dist.config import load_settings
from rwp_dist.perturb.ahead import Prefetch, leave_out
from rwp_dist.perturb.methods import METHODS
from rwp_dist.perturb.normals.generator import TorchNormals
from rwp_dist.perturb.rows import list_filters
from rwp_dist.perturb.slots import Slot
from rwp_dist.run.models import build_model

CPU = torch.device("cpu")


@pytest.fixture
def filters():
    return list_filters(small_net().named_parameters(), ["ndim<2"])


@pytest.fixture
def prefetch(filters):
    made = Prefetch(TorchNormals(7, CPU), filters)
    yield made
    made.close()


def drawn_now(filters, step, draw, noise=None):
    noise = noise or TorchNormals(7, CPU)
    units = [torch.empty(f.shape, device=noise.device) for f in filters]
    return [noise.fill(u, step, draw, f.index) for u, f in zip(units, filters, strict=True)]


def equal(units, others):
    return all(torch.equal(a, b) for a, b in zip(units, others, strict=True))


@pytest.mark.parametrize("started", [True, False])
def test_noise_drawn_ahead_is_bit_equal_to_noise_drawn_now(filters, generator, started):
    prefetch = Prefetch(generator(7), filters)
    for step in range(3):
        prefetch.want(step, 1)
        if started:
            prefetch.start()
        assert equal(prefetch.take(step, 1), drawn_now(filters, step, 1, generator(7)))
    prefetch.close()


def test_another_key_than_was_announced_gets_its_own_noise(prefetch, filters):
    prefetch.want(1, 1)
    prefetch.start()
    assert equal(prefetch.take(5, 0), drawn_now(filters, 5, 0))


def test_what_is_in_use_is_overwritten_only_after_it_was_given_up(prefetch, filters):
    units = prefetch.take(0, 1)
    prefetch.start()
    assert equal(units, drawn_now(filters, 0, 1))
    prefetch.want(1, 1)
    assert equal(units, drawn_now(filters, 0, 1))


def test_drawing_happens_beside_the_caller_and_waiting_is_counted(prefetch, monkeypatch):
    go, where = threading.Event(), []
    original = TorchNormals.fill

    def fill(self, *args):
        where.append(threading.current_thread())
        assert go.wait(10)
        return original(self, *args)

    monkeypatch.setattr(TorchNormals, "fill", fill)
    prefetch.want(0, 0)
    prefetch.start()  # returns although nothing can be drawn yet
    threading.Timer(0.2, go.set).start()
    prefetch.take(0, 0)
    work, drawn, waited = prefetch.times()
    assert threading.current_thread() not in where
    assert drawn >= 0.15
    assert waited >= 0.15
    assert work < 0.1  # of the core: waiting is none
    assert prefetch.times() == (0.0, 0.0, 0.0)


def test_noise_left_out_of_the_buffer_is_the_same_and_counts_as_waited_for(filters, generator):
    whole = sum(4 * f.shape.numel() for f in filters)
    for left_out in ([filters[0]], filters[1:3], filters):
        made = Prefetch(generator(7), filters, left_out)
        assert made.num_bytes == whole - sum(4 * f.shape.numel() for f in left_out)
        for step in range(2):
            made.want(step, 1)
            made.start()
            made.join()
            before = made.times()
            assert equal(made.take(step, 1), drawn_now(filters, step, 1, generator(7)))
            times = made.times()
            assert times.drawn == times.waited > 0 and times.work > 0, times
            assert before.drawn > 0 or left_out is filters
        made.close()


def test_parameters_are_left_out_for_as_many_bytes_as_are_needed_and_no_more():
    sizes = (40_000, 300, 100, 200, 40)
    filters = list_filters((f"p{n}", nn.Parameter(torch.empty(n))) for n in sizes)
    for wanted, names in (
        (0, []),
        (100, ["p100"]),
        (139, ["p100"]),
        (140, ["p100", "p40"]),
        (299, ["p200", "p40"]),
        (599, ["p300", "p200", "p40"]),
        (1_000, []),  # more than a fiftieth
    ):
        assert [f.name for f in leave_out(filters, 4 * wanted)] == names


@pytest.mark.parametrize("name", ["resnet50", "resnet18", "vit_s_16"])
def test_perturbing_holds_no_more_bytes_than_the_parameters_have(name):
    """Buffer, tables, and energy within a backward pass; of adaptive noise, which has most."""
    settings = [f"model.name={name}", "model.num_classes=1000", "data.channels=3"]
    settings += ["data.image_size=224"]
    with torch.device("meta"):
        net = build_model(load_settings(None, settings))
    net.to_empty(device="cpu")  # memory that is not touched
    slot = Slot(index=1, perturbed=True, share=0.5, draw=1)
    perturbation = Perturbation(
        net,
        list_filters(net.named_parameters()),
        METHODS["m-arwp"],
        Whole(),
        device=CPU,
        seed=0,
        num_perturbed_slots=1,
        ahead=[slot],
    )
    perturbation.energy.observe(1.0)
    param = min(net.parameters(), key=lambda p: p.numel())
    param.sum().backward()
    size = sum(4 * p.numel() for p in net.parameters())
    assert perturbation.energy._observed is not None
    assert 0.98 * size < held_bytes(perturbation) <= size
    perturbation.close()


class Whole:
    """A keeper of clean weights that is never asked for them."""

    whole = True


def test_noise_that_failed_to_be_drawn_is_drawn_again(prefetch, filters, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(TorchNormals, "fill", lambda *args: 1 / 0)
        prefetch.want(0, 1)
        prefetch.start()
        with pytest.raises(ZeroDivisionError):
            prefetch.take(0, 1)
    assert equal(prefetch.take(0, 1), drawn_now(filters, 0, 1))


def weights_and_starts(overrides):
    """Weights after some steps, and how much was drawn while gradients were reduced."""
    with small_parts(small_settings(*overrides)) as parts:
        prefetch, started = parts.perturbation._prefetch, []
        if prefetch is not None:
            submit = prefetch._lane.submit
            reducing = []
            original = parts.perturbation.reducing

            def watched():
                reducing.append(True)
                original()
                reducing.pop()

            def submitted(task):
                started.append(bool(reducing))
                submit(task)

            parts.perturbation.reducing = watched
            parts.engine.when_reducing(watched)
            prefetch._lane.submit = submitted
        for _ in run_steps(parts, 0, 4):
            pass
        return weights_of(parts), started


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_run_is_the_same_with_and_without_and_draws_while_gradients_are_reduced(stage):
    method = "arwp" if stage == 3 else "m-arwp"
    common = (f"method.name={method}", f"deepspeed.zero_stage={stage}")
    with_it = run_ranks(weights_and_starts, 2, (*common, "noise.prefetch=true"))
    without = run_ranks(weights_and_starts, 2, (*common, "noise.prefetch=false"))
    for (weights, started), (others, _) in zip(with_it, without, strict=True):
        assert same_bits(weights, others)
        if started:  # perturbed ranks only: the first in line, all others ahead
            assert started == [False, True, True, True, True]
    assert any(started for _, started in with_it)
    assert all(not started for _, started in without)


def bytes_of(prefetch):
    with small_parts(small_settings("method.name=m-rwp", f"noise.prefetch={prefetch}")) as parts:
        return parts.perturbation.noise_bytes, sum(
            p.numel() * 4 for p in parts.engine.module.parameters()
        )


def test_the_buffer_is_as_large_as_the_parameters_on_perturbed_ranks_and_nowhere_else():
    results = run_ranks(bytes_of, 2, "true")
    size = results[0][1]
    assert [own for own, _ in results] == [0, size]
    assert [own for own, _ in run_ranks(bytes_of, 2, "false")] == [0, 0]
