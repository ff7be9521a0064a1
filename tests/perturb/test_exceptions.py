"""Property 6: whatever happens inside a perturbed pass, clean weights are what it leaves behind."""

import pytest
import torch
import torch.distributed as dist
from support.ranks import run_ranks
from support.small import (
    agree,
    run_all,
    same_bits,
    small_parts,
    small_settings,
    split_over,
    weights_of,
)

from rwp_dist.perturb.stopwatch import Stopwatch
from rwp_dist.process.consensus import Consensus
from rwp_dist.train import train_step

STAGES = (0, 1, 2)


def fail_in_a_train_step(cases, error):
    """A single rank whose network raises in the perturbed pass of a whole training step."""
    outcomes = []
    for overrides in cases:
        with small_parts(small_settings(*overrides)) as parts:
            run_all(parts, stop=2)
            before, seen = weights_of(parts), []
            batch = next(parts.train.steps(2, 3))
            agreed = agree(parts, batch, Consensus())

            def explode(module, args, parts=parts, before=before, seen=seen):
                if not same_bits(before, weights_of(parts)):
                    seen.append("perturbed")
                    raise error("in the middle of a pass")

            hook = parts.engine.module.register_forward_pre_hook(explode)
            with pytest.raises(error):
                train_step(parts, 2, batch, agreed, progress=FakeProgress())
            hook.remove()
            after = weights_of(parts)
            saved = parts.engine.full_weights()
            outcomes.append((seen, same_bits(before, after), same_bits(before, saved)))
    return outcomes


class FakeProgress:
    forward_watch = Stopwatch(torch.device("cpu"))

    def observe(self, *args):
        pass

    def add_loss(self, *args, **more):
        pass

    def after_step(self, applied):
        pass


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_single_rank_has_clean_weights_at_once(error):
    methods = ("m-rwp", "m-arwp", "rwp", "sam")
    cases = [(f"method.name={m}", f"deepspeed.zero_stage={s}") for m in methods for s in STAGES]
    # A rank with several perturbed passes keeps a copy; fail in the first of them.
    cases += [("method.name=m-rwp", f"deepspeed.zero_stage={s}", split_over(1, 4)) for s in STAGES]
    (outcomes,) = run_ranks(fail_in_a_train_step, 1, cases, error)
    assert outcomes == [(["perturbed"], True, True)] * len(cases)


def fail_on_one_rank(cases):
    """Only rank 1 raises; rank 0 is clean and knows nothing of it."""
    outcomes = []
    for overrides in cases:
        with small_parts(small_settings(*overrides)) as parts:
            run_all(parts, stop=2)
            before = weights_of(parts)
            try:
                with parts.perturbed(2):
                    perturbed = not same_bits(before, weights_of(parts))
                    if dist.get_rank() == 1:
                        raise RuntimeError("on this rank alone")
            except RuntimeError:
                pass
            parts.engine.weights.ensure_clean()
            clean = same_bits(before, weights_of(parts))
            parts.engine.weights.ensure_clean()  # again: nothing is left to do, nothing hangs
            saved = parts.engine.full_weights()
            outcomes.append((perturbed, clean, same_bits(before, saved)))
    return outcomes


def test_several_ranks_have_clean_weights_once_all_have_asked_for_them():
    cases = [(f"method.name={m}", f"deepspeed.zero_stage={s}") for m in ("m-rwp",) for s in STAGES]
    clean, perturbed = run_ranks(fail_on_one_rank, 2, cases)
    assert clean == [(False, True, True)] * len(cases)
    assert perturbed == [(True, True, True)] * len(cases)


def fail_at_stage_3():
    settings = small_settings("method.name=rwp", "deepspeed.zero_stage=3")
    with small_parts(settings) as parts:
        run_all(parts, stop=2)
        before = parts.engine.full_weights()
        batch = next(parts.train.steps(0, 1))
        images = parts.normalise(batch.batches[0].images)
        logits = parts.engine.forward_only(images)
        with pytest.raises(RuntimeError), parts.perturbed(2):
            noisy = parts.engine.forward_only(images)
            raise RuntimeError("on all ranks")
        same = bool((parts.engine.forward_only(images) == logits).all())
        return same, bool((noisy != logits).any()), same_bits(before, parts.engine.full_weights())


def test_stage_3_computes_with_clean_weights_after_an_exception():
    assert run_ranks(fail_at_stage_3, 2) == [(True, True, True)] * 2


def fail_after_the_last_pass(stage, micro_batches):
    """The network is left perturbed by the pass that the optimizer's step never followed."""
    settings = small_settings(
        "method.name=rwp", f"deepspeed.zero_stage={stage}", split_over(2, micro_batches)
    )
    with small_parts(settings) as parts:
        run_all(parts, stop=2)
        before = parts.engine.full_weights()
        batch = next(parts.train.steps(2, 3))
        agreed = agree(parts, batch, Consensus())

        class Failing(FakeProgress):
            def observe(self, slot, *args):
                if slot is parts.perturbed.my_slots[-1]:
                    raise RuntimeError("after the pass")

        with pytest.raises(RuntimeError, match="after the pass"):
            train_step(parts, 2, batch, agreed, progress=Failing())
        return same_bits(before, parts.engine.full_weights())


@pytest.mark.parametrize("stage", [0, 1, 2])
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_an_error_between_the_last_pass_and_the_step_leaves_clean_weights_too(stage, micro_batches):
    assert run_ranks(fail_after_the_last_pass, 2, stage, micro_batches) == [True, True]
