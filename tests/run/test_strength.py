"""Steps without perturbation in a run: warm-up, every k-th step, a part of the run."""

import pytest
from support.methods import overrides
from support.properties import assert_resumes_exactly
from support.ranks import run_ranks
from support.small import (
    buffers_of,
    run_all,
    run_steps,
    same_bits,
    small_parts,
    small_settings,
    split_over,
    weights_of,
)

STEPS = 8
WINDOWS = {
    ("method.warmup_steps=3",): [3, 4, 5, 6, 7],
    ("method.every=3",): [0, 3, 6],
    ("method.start=0.5",): [4, 5, 6, 7],
    ("method.stop=0.5",): [0, 1, 2, 3],
    ("method.start=decay", "schedule.warmup_steps=2"): [2, 3, 4, 5, 6, 7],
}
"""Settings, and the steps in which they perturb."""

WINDOWED = ("rwp", "m-arwp", "sam", "asam", "last-sam")


def looked_at(cases):
    """For every case and step: whether a pass saw perturbed weights, and the number of passes."""
    return [_looked_at(case) for case in cases]


def _looked_at(case):
    with small_parts(small_settings(*case, split_over(1, 2), steps=STEPS)) as parts:
        perturbed, passes, clean = [], [], [weights_of(parts)]

        def look(module, args):
            passes[-1] += 1
            perturbed[-1] |= not same_bits(weights_of(parts), clean[0])

        parts.engine.module.register_forward_pre_hook(look)
        perturbed.append(False)
        passes.append(0)
        for _ in run_steps(parts, 0, STEPS):
            clean[0] = weights_of(parts)
            perturbed.append(False)
            passes.append(0)
        return perturbed[:-1], passes[:-1]


@pytest.mark.parametrize("method", WINDOWED)
def test_passes_see_perturbed_weights_exactly_where_the_settings_say(method):
    cases = [overrides(method, *more) for more in WINDOWS]
    (found,) = run_ranks(looked_at, 1, cases)
    for (perturbed, passes), steps in zip(found, WINDOWS.values(), strict=True):
        first = [0] if method == "last-sam" else []  # it has no gradient yet
        assert [s for s in range(STEPS) if perturbed[s]] == [s for s in steps if s not in first]
        ascends = method in ("sam", "asam")
        assert passes == [4 if ascends and step in steps else 2 for step in range(STEPS)]


@pytest.mark.parametrize("method", WINDOWED)
@pytest.mark.parametrize("window", ["method.start=0.5", "method.stop=0.5", "method.every=4"])
def test_a_run_resumes_exactly_in_a_clean_and_in_a_perturbed_stretch(method, window, tmp_path):
    """Every fourth step: after 2 steps in a clean stretch, after 4 before a perturbed step."""
    at = (2, 4) if "every" in window else (2, 6)
    assert_resumes_exactly(method, tmp_path, window, at=at, stages=(1,))


def ends(cases):
    found = []
    for case in cases:
        with small_parts(small_settings(*case, steps=STEPS)) as parts:
            run_all(parts)
            found.append((weights_of(parts), buffers_of(parts)))
    return found


def test_a_run_that_is_clean_throughout_is_sgd_where_a_method_has_one_role():
    methods = ("sgd", "rwp", "arwp", "sam", "asam", "last-sam")
    cases = [overrides(method, "method.stop=0") for method in methods]
    for rank in run_ranks(ends, 2, cases):
        for weights, buffers in rank[1:]:
            assert same_bits(weights, rank[0][0]) and same_bits(buffers, rank[0][1])


def test_a_clean_mixed_method_keeps_the_weights_of_its_roles_and_its_frozen_statistics():
    """Rank 1 is perturbed: BatchNorm does not learn from it, and its loss weighs lambda."""
    cases = [overrides("m-rwp", "method.stop=0", f"method.lambda={x}") for x in (0.3, 0.5)]
    cases += [overrides("sgd")]
    clean, perturbed = run_ranks(ends, 2, cases)
    for rank in (clean, perturbed):
        (third, _), (half, _), (sgd, _) = rank
        assert not same_bits(third, sgd)
        assert all(((half[n] - w).abs() < 1e-5).all() for n, w in sgd.items())
    for (_, buffers), (_, frozen) in zip(clean[:2], perturbed[:2], strict=True):
        assert int(buffers["bn1.num_batches_tracked"]) == STEPS
        assert int(frozen["bn1.num_batches_tracked"]) == 0
