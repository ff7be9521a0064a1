"""Last-gradient SAM: the direction is the gradient of the update before."""

import pytest
import torch
import torch.distributed as dist
from support.checkpoints import load, move_state, save
from support.properties import assert_one_pass, assert_resumes_exactly, library_of
from support.ranks import run_ranks
from support.small import (
    run_all,
    run_steps,
    same_bits,
    small_net,
    small_parts,
    small_settings,
    split_over,
    weights_of,
)

from rwp_dist.base.errors import SettingsError
from rwp_dist.perturb import Perturbed

LAST = "method.name=last-sam"


def test_a_micro_batch_takes_one_pass():
    assert_one_pass("last-sam")


def directions(library):
    return library.noisy.move.state_dict()["direction"]


def test_the_first_step_is_clean_and_the_second_goes_rho_along_its_gradient():
    library = library_of("last-sam", split_over(1, 1))
    clean = library.weights()
    for _ in library.passes(0):
        assert same_bits(library.weights(), clean)
    gradient = {n: p.grad.clone() for n, p in library.net.named_parameters()}
    library.end_step(0)
    norm = torch.cat([g.flatten() for g in gradient.values()]).norm()
    clean = library.weights()
    for _ in library.passes(1):
        for name, w in library.weights().items():
            torch.testing.assert_close(w, clean[name] + 0.3 * gradient[name] / norm)
    library.close()


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 0.0])
def test_a_gradient_that_is_not_finite_or_zero_never_becomes_the_direction(value):
    library = library_of("last-sam", split_over(1, 1))
    library.step(0)
    before = directions(library)
    with library.noisy(1):
        (library.net(library.batches(1)[0][0]).sum() * (1.0 if value else 0.0)).backward()
        if value:  # of one element, so that infinity does not make others nan
            library.net.linear2.bias.grad[0] = value
    library.end_step(1)
    assert same_bits(directions(library), before)
    library.step(2)
    assert not same_bits(directions(library), before)
    assert all(d.isfinite().all() for d in directions(library).values())
    library.close()


def test_no_direction_comes_of_a_first_gradient_that_is_not_finite():
    library = library_of("last-sam", split_over(1, 1))
    clean = library.weights()
    with library.noisy(0):
        (library.net(library.batches(0)[0][0]).sum() * float("nan")).backward()
    library.end_step(0)
    for _ in library.passes(1):
        assert same_bits(library.weights(), clean)
    library.close()


def test_the_direction_does_not_depend_on_the_scale_of_a_gradscaler():
    found = {}
    for scale in (1.0, 1024.0):
        net, scaler = small_net(), torch.amp.GradScaler("cpu", init_scale=scale)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        noisy = Perturbed(net, "last-sam", rho=0.3, scaler=scaler)
        with noisy(0):
            scaler.scale(noisy.weight * net(torch.ones(2, 1, 6, 6)).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
        noisy.end_step()
        found[scale] = noisy.move.state_dict()["direction"]
        noisy.close()
    assert all(torch.allclose(found[1.0][n], found[1024.0][n]) for n in found[1.0])


def poisoned(cases):
    """Directions of the engine before, after and two steps after a gradient of infinity."""
    found = []
    for case in cases:
        with small_parts(small_settings(LAST, *case)) as parts:
            run_all(parts, stop=2)
            states = [move_state(parts)]
            loss = parts.task.loss

            def infinite(logits, *more, loss=loss):
                return loss(logits, *more) * (float("inf") if dist.get_rank() == 1 else 1.0)

            parts.task.loss = infinite
            before = weights_of(parts)
            run_all(parts, 2, 3)
            assert parts.engine.skipped_steps == 1 and same_bits(weights_of(parts), before)
            states.append(move_state(parts))
            parts.task.loss = loss
            run_all(parts, 3, 4)
            states.append(move_state(parts))
        found.append(states)
    return found


def test_nor_in_the_engine_at_any_stage():
    cases = [(f"deepspeed.zero_stage={s}", split_over(2, n)) for s in (0, 1, 2) for n in (1, 2)]
    for ranks in run_ranks(poisoned, 2, cases):
        for before, after, later in ranks:
            assert before and same_bits(before, after) and not same_bits(after, later)
            assert all(t.isfinite().all() for t in later.values())


def test_a_run_resumes_exactly_before_and_after_it_has_a_direction(tmp_path):
    """The first gradient is taken in a clean step, too: warm-up ends after 4 steps."""
    assert_resumes_exactly("last-sam", tmp_path, "method.warmup_steps=4", at=(1, 4, 6))


def direction_on_other_ranks(folder):
    settings = small_settings(LAST, split_over(dist.get_world_size(), 2))
    with small_parts(settings, small_net(seed=9)) as parts:
        load(folder, parts)
        return move_state(parts)


def save_on_two(folder):
    with small_parts(small_settings(LAST)) as parts:
        run_all(parts, stop=3)
        save(folder, parts, 3)
        return move_state(parts)


def test_the_direction_is_in_the_checkpoint_for_any_number_of_ranks(tmp_path):
    saved = run_ranks(save_on_two, 2, tmp_path)[0]
    assert saved.keys() == {f"direction {name}" for name, _ in small_net().named_parameters()}
    norm = torch.cat([d.flatten() for d in saved.values()]).norm()
    assert float(norm) == pytest.approx(1.0, rel=1e-5)
    for loaded in run_ranks(direction_on_other_ranks, 1, tmp_path):
        assert same_bits(loaded, saved)


def directions_over_steps(stage):
    with small_parts(small_settings(LAST, f"deepspeed.zero_stage={stage}")) as parts:
        return [move_state(parts) for _ in run_steps(parts, 0, 4)]


def test_all_ranks_take_the_gradient_averaged_over_ranks_at_every_stage():
    by_stage = [run_ranks(directions_over_steps, 2, stage) for stage in (0, 1, 2)]
    for ranks in by_stage:
        assert all(same_bits(*states) for states in zip(*ranks, strict=True))
    wanted = by_stage[0][0]
    for ranks in by_stage[1:]:
        for found, reference in zip(ranks[0], wanted, strict=True):
            for name, unit in reference.items():
                torch.testing.assert_close(found[name], unit, rtol=1e-4, atol=1e-6)


def test_stage_3_is_refused_with_the_cure():
    with pytest.raises(SettingsError) as caught:
        small_settings(LAST, "deepspeed.zero_stage=3")
    (error,) = caught.value.problems
    assert error.key == "deepspeed.zero_stage" and "whole gradients" in error.problem
    assert error.cure == "set deepspeed.zero_stage to 2"
