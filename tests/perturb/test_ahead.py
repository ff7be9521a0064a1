"""Noise drawn ahead is the noise drawn on the spot, in time, and without a trace elsewhere."""

import threading

import pytest
import torch
from support.held import held_bytes
from support.ranks import run_ranks
from support.small import run_steps, same_bits, small_net, small_parts, small_settings, weights_of

from rwp_dist.config import load_settings
from rwp_dist.perturb import Perturbed
from rwp_dist.perturb.ahead import DrawAhead
from rwp_dist.perturb.normals.generator import TorchNormals
from rwp_dist.perturb.rows import list_rows
from rwp_dist.run.models import build_shapes

CPU = torch.device("cpu")


@pytest.fixture
def rows():
    return list_rows(small_net().named_parameters(), ["ndim<2"])


@pytest.fixture
def ahead(rows):
    made = DrawAhead(TorchNormals(7, CPU), rows)
    yield made
    made.close()


def drawn_now(rows, step, draw, noise=None):
    noise = noise or TorchNormals(7, CPU)
    units = [torch.empty(r.shape, device=noise.device) for r in rows]
    return [noise.fill(u, step, draw, r.index) for u, r in zip(units, rows, strict=True)]


def equal(units, others):
    return all(torch.equal(a, b) for a, b in zip(units, others, strict=True))


@pytest.mark.parametrize("started", [True, False])
def test_noise_drawn_ahead_is_bit_equal_to_noise_drawn_now(rows, generator, started):
    ahead = DrawAhead(generator(7), rows)
    for step in range(3):
        ahead.announce(step, 1)
        if started:
            ahead.start()
        assert equal(ahead.take(step, 1), drawn_now(rows, step, 1, generator(7)))
    ahead.close()


def test_another_key_than_was_announced_gets_its_own_noise(ahead, rows):
    ahead.announce(1, 1)
    ahead.start()
    assert equal(ahead.take(5, 0), drawn_now(rows, 5, 0))


def test_what_is_in_use_is_overwritten_only_after_it_was_given_up(ahead, rows):
    units = ahead.take(0, 1)
    ahead.start()
    assert equal(units, drawn_now(rows, 0, 1))
    ahead.announce(1, 1)
    assert equal(units, drawn_now(rows, 0, 1))


def test_drawing_happens_beside_the_caller_and_waiting_is_counted(ahead, monkeypatch):
    go, where = threading.Event(), []
    original = TorchNormals.fill

    def fill(self, *args):
        where.append(threading.current_thread())
        assert go.wait(10)
        return original(self, *args)

    monkeypatch.setattr(TorchNormals, "fill", fill)
    ahead.announce(0, 0)
    ahead.start()  # returns although nothing can be drawn yet
    threading.Timer(0.2, go.set).start()
    ahead.take(0, 0)
    work, drawn, waited = ahead.take_times()
    assert threading.current_thread() not in where
    assert drawn >= 0.15
    assert waited >= 0.15
    assert work < 0.1  # of the core: waiting is none
    assert ahead.take_times() == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("name", ["resnet50", "resnet18", "vit_s_16"])
def test_perturbing_holds_a_buffer_of_the_parameters_size_and_small_tables(name):
    """Adaptive noise has most tables, four floats for each row.

    These are its deviation, one over the square root of its length, its energy, and what this
    update has observed of that. The copy of the
    weights, where there is one, is made in the first pass.
    """
    overrides = [f"model.name={name}", "model.num_classes=1000", "data.channels=3"]
    net = build_shapes(load_settings(None, [*overrides, "data.image_size=224"]))
    net.to_empty(device="cpu")  # memory that is not touched
    noisy = Perturbed(net, "m-arwp", exclude=(), micro_batches=2, backend="torch")
    param = min(net.parameters(), key=lambda p: p.numel())
    noisy.move.observe(1.0)
    param.sum().backward()
    size = sum(4 * p.numel() for p in net.parameters())
    num_rows = sum(p.shape[0] if p.ndim > 1 else p.numel() for p in net.parameters())
    assert noisy.move.num_bytes == size
    assert size + 12 * num_rows < held_bytes(noisy) <= size + 16 * num_rows
    assert 16 * num_rows < 0.02 * size, "tables are small"
    noisy.close()


def test_the_copy_of_the_weights_is_as_large_as_the_parameters():
    net = small_net()
    noisy = Perturbed(net, "rwp", exclude=(), draw_ahead=False)
    before = held_bytes(noisy)
    for step in range(2):
        with noisy(step):
            pass
        noisy.end_step()
    assert held_bytes(noisy) - before == sum(4 * p.numel() for p in net.parameters())
    noisy.close()


def test_noise_that_failed_to_be_drawn_is_drawn_again(ahead, rows, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(TorchNormals, "fill", lambda *args: 1 / 0)
        ahead.announce(0, 1)
        ahead.start()
        with pytest.raises(ZeroDivisionError):
            ahead.take(0, 1)
    assert equal(ahead.take(0, 1), drawn_now(rows, 0, 1))


def weights_and_starts(overrides):
    """Weights after some steps; for every drawing whether it began in a backward pass.

    Namely after the last gradient of this rank, while there is only reducing left to do.
    """
    with small_parts(small_settings(*overrides)) as parts:
        ahead, started = getattr(parts.perturbed.move, "_ahead", None), []
        if ahead is not None:
            engine, seen, backwards = parts.engine, set(), []
            submit, backward = ahead._worker.submit, engine.backward
            for name, param in engine.trained.items():
                param.register_hook(lambda grad, name=name: seen.add(name))

            def submitted(task):
                started.append(bool(backwards) and seen >= engine.trained.keys() - {"conv1.weight"})
                submit(task)

            def watched(loss):
                seen.clear()
                backwards.append(True)
                backward(loss)
                backwards.pop()

            engine.backward = watched
            ahead._worker.submit = submitted
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


def announced(overrides):
    """Steps whose noise was begun to be drawn, in this order."""
    with small_parts(small_settings(*overrides, steps=20)) as parts:
        begun, ahead = [], parts.perturbed.move._ahead
        draw = ahead._draw

        def watched(key):
            begun.append(key[0])
            draw(key)

        ahead._draw = watched
        for _ in run_steps(parts, 0, 20):
            pass
        ahead.join()
        return begun


def test_noise_is_drawn_for_perturbed_steps_only_and_once():
    (every,) = run_ranks(announced, 1, ("method.name=rwp", "method.every=4"))
    assert every == [0, 4, 8, 12, 16]
    (late,) = run_ranks(announced, 1, ("method.name=rwp", "method.start=0.5", "method.stop=0.75"))
    assert late == [10, 11, 12, 13, 14]


def bytes_of(prefetch):
    with small_parts(small_settings("method.name=m-rwp", f"noise.prefetch={prefetch}")) as parts:
        return parts.perturbed.move.num_bytes, 4 * parts.engine.num_parameters


def test_the_buffer_is_as_large_as_the_parameters_on_perturbed_ranks_and_nowhere_else():
    results = run_ranks(bytes_of, 2, "true")
    size = results[0][1]
    assert [own for own, _ in results] == [0, size]
    assert [own for own, _ in run_ranks(bytes_of, 2, "false")] == [0, 0]
