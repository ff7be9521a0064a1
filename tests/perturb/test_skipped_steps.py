"""Property 5: a step with a gradient that is not finite leaves clean weights and is counted."""

import pytest
import torch.distributed as dist
from support.checkpoints import move_state
from support.methods import METHOD_SETTINGS, overrides
from support.ranks import run_ranks
from support.small import (
    ENGINES,
    run_steps,
    same_bits,
    small_parts,
    small_settings,
    split_over,
    weights_of,
)

from rwp_dist.run.progress import Progress

POISONED_STEP, STEPS = 3, 6


def run_poisoned(cases, poisoned_rank, poisoned_pass):
    """One pass of one rank, or all of them (None), has a loss of infinity.

    Returns for every case what each step left behind.
    """
    return [_run_poisoned(case, poisoned_rank, poisoned_pass) for case in cases]


def _run_poisoned(case, poisoned_rank, poisoned_pass):
    with small_parts(small_settings(*case, steps=STEPS)) as parts:
        history, progress, loss = [], Progress(parts), parts.task.loss
        progress.load_state_dict(progress.state_dict() | {"skipped_steps": 2})

        def poison(logits, *targets):
            losses = loss(logits, *targets)
            here = dist.get_rank() == poisoned_rank and len(history) == POISONED_STEP
            this_pass = poisoned_pass in (None, parts.engine._passes - 1)
            return losses * float("inf") if here and this_pass else losses

        parts.task.loss = poison
        for _ in run_steps(parts, 0, STEPS, progress):
            full = parts.engine.full_weights()
            weights = weights_of(parts) if parts.engine.weights.whole else full
            state = parts.engine.optimizer_state(keep=True)
            momentum = {n: s["momentum_buffer"] for n, s in state.items()}
            skipped = parts.engine.skipped_steps
            history.append((weights, full, momentum, move_state(parts), skipped))
        return history, progress.train_record(STEPS, 0)["skipped_steps"]


def check(world_size, cases, rank, number):
    results = run_ranks(run_poisoned, world_size, cases, rank, number)
    for index, case in enumerate(cases):
        for history, shown in (by_rank[index] for by_rank in results):
            before, poisoned = history[POISONED_STEP - 1], history[POISONED_STEP]
            for now, then in zip(poisoned[:4], before[:4], strict=True):
                assert same_bits(now, then), f"{case}: the poisoned step left traces"
            assert [h[4] for h in history] == [0, 0, 0, 1, 1, 1], case
            assert shown == 3, f"{case}: two skipped before and one now"
            weights, _, _, move, _ = history[-1]
            assert all(t.isfinite().all() for t in (*weights.values(), *move.values())), case
            assert not same_bits(weights, poisoned[0]), f"{case}: training did not go on"
            assert same_bits(weights, results[0][index][0][-1][0]), f"{case}: ranks differ"


@pytest.mark.parametrize("rank", [0, 1], ids=["clean rank", "perturbed rank"])
def test_weights_optimizer_and_move_stay_as_they_were(rank):
    cases = [overrides(m, engine) for m in METHOD_SETTINGS for engine in ENGINES]
    check(2, cases, rank, 0)


def test_also_if_the_ascent_of_sam_is_not_finite():
    check(2, [("method.name=sam", engine) for engine in ENGINES], 1, None)


def test_also_where_ranks_have_unequal_numbers_of_perturbed_passes():
    """Three micro-batches on three ranks: 1, 2 and 1 of them perturbed."""
    cases = [
        ("method.name=m-arwp", "batch.global=18", "batch.per_rank=2", engine) for engine in ENGINES
    ]
    check(3, cases, rank=1, number=1)


def test_also_at_stage_3():
    cases = [
        (f"method.name={m}", "deepspeed.zero_stage=3", split_over(2, 2)) for m in ("sgd", "m-arwp")
    ]
    check(2, cases, rank=1, number=1)


def test_also_on_a_single_rank_and_in_bf16():
    cases = [("method.name=m-arwp", "precision=bf16", engine) for engine in ENGINES]
    check(1, cases, rank=0, number=1)
