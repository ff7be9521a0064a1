"""Which micro-batches are perturbed, what each weighs, and which noise it uses."""

import pytest
from support.oracle import ROLES

from rwp_dist.perturb import METHODS
from rwp_dist.perturb.slots import Slots, loss_scale, mean_loss_weight

SIZES = [(world_size, micro) for micro in ROLES for world_size in ROLES[micro]]


def flat(slots):
    return [slot for row in slots for slot in row]


@pytest.mark.parametrize("method", ["m-rwp", "m-arwp"])
@pytest.mark.parametrize(("world_size", "micro_batches"), SIZES)
def test_roles_of_a_mixed_method_are_those_of_the_table(method, world_size, micro_batches):
    slots = Slots(METHODS[method], world_size, micro_batches, 0.3)
    roles = ["".join("p" if slot.perturbed else "c" for slot in row) for row in slots]
    assert roles == ROLES[micro_batches][world_size]


def test_the_table_has_1_to_5_ranks_with_1_to_3_micro_batches():
    assert sorted(SIZES) == [(w, m) for w in range(1, 6) for m in range(1, 4)]


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if not m.mixed])
def test_other_methods_have_one_role(name):
    for world_size, micro_batches in SIZES:
        slots = flat(Slots(METHODS[name], world_size, micro_batches, 0.3))
        assert {slot.perturbed for slot in slots} == {METHODS[name].move is not None}
        assert {slot.share for slot in slots} == {1.0}


@pytest.mark.parametrize(("world_size", "micro_batches"), SIZES)
def test_slots_are_numbered_and_each_draws_its_own_noise_unless_it_is_shared(
    world_size, micro_batches
):
    for shared in (False, True):
        slots = Slots(METHODS["rwp"], world_size, micro_batches, 0.5, shared_draws=shared)
        assert [slot.index for slot in flat(slots)] == list(range(world_size * micro_batches))
        draws = [slot.draw for slot in flat(slots)]
        assert draws == (list(range(micro_batches)) * world_size if shared else sorted(set(draws)))
        assert {slot.sign for slot in flat(slots)} == {1}


@pytest.mark.parametrize("method", ["rwp", "m-rwp"])
@pytest.mark.parametrize(("world_size", "micro_batches"), SIZES)
def test_antithetic_slots_come_in_pairs_of_one_noise_and_both_signs(
    method, world_size, micro_batches
):
    slots = flat(Slots(METHODS[method], world_size, micro_batches, 0.5, antithetic=True))
    perturbed = [slot for slot in slots if slot.perturbed]
    pairs = list(zip(perturbed[::2], perturbed[1::2], strict=False))
    assert all(a.draw == b.draw and (a.sign, b.sign) == (1, -1) for a, b in pairs)
    assert len({slot.draw for slot in perturbed}) == len(perturbed) - len(pairs)


@pytest.mark.parametrize("lambda_", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("world_size", "micro_batches"), [s for s in SIZES if s != (1, 1)])
def test_the_mean_over_slots_is_the_weighted_mean_of_both_roles(world_size, micro_batches, lambda_):
    """``loss_scale`` for unequal numbers of samples, ``mean_loss_weight`` for equal ones.

    One slot alone has one role: a mixed method refuses it.
    """
    slots = Slots(METHODS["m-rwp"], world_size, micro_batches, lambda_)
    count = world_size * micro_batches
    samples = {slot.index: 1 + slot.index % 3 for slot in flat(slots)}
    totals = {
        role: sum(samples[s.index] for s in flat(slots) if s.perturbed == role)
        for role in (False, True)
    }
    for slot in flat(slots):
        weight = lambda_ if slot.perturbed else 1 - lambda_
        scale = loss_scale(slot, count, totals[False], totals[True])
        assert scale / count == pytest.approx(weight / totals[slot.perturbed])
        num = sum(s.perturbed == slot.perturbed for s in flat(slots))
        assert mean_loss_weight(slot, slots) / world_size == pytest.approx(weight / num)


def test_a_role_without_samples_leaves_its_share_to_the_other():
    clean, perturbed = flat(Slots(METHODS["m-rwp"], 2, 1, 0.3))
    assert loss_scale(clean, 2, 4, 0) == pytest.approx(2 / 4)
    assert loss_scale(perturbed, 2, 0, 4) == pytest.approx(2 / 4)
    assert loss_scale(clean, 2, 0, 4) == 0.0
    assert loss_scale(flat(Slots(METHODS["m-rwp"], 2, 1, 0.0))[1], 2, 0, 4) == 0.0
