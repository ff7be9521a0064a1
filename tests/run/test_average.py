"""Averages of the weights: EMA, SWA and LAWA. Their formulas are rows of the oracle."""

import pytest
import torch
from support.checkpoints import load, save
from support.ranks import run_ranks
from support.small import (
    ENGINES,
    run_all,
    run_steps,
    same_bits,
    small_net,
    small_parts,
    small_settings,
    split_over,
)
from torch.utils._python_dispatch import TorchDispatchMode

from rwp_dist.base.errors import ConfigError
from rwp_dist.config import load_settings, split_batch, uses
from rwp_dist.config.tree import AVERAGES, Average
from rwp_dist.record.directory import RunDir
from rwp_dist.run import memory
from rwp_dist.run.average import KINDS, NewestAverage, build_average
from rwp_dist.run.checkpoint import read_checkpoint
from rwp_dist.run.evaluate import clean_network, evaluate_beside, evaluate_parts
from rwp_dist.run.timeline import Timeline
from rwp_dist.shards.digits import write_digits
from rwp_dist.train import train

STEPS, SAVED = 9, 5
OPTIONS = {
    "ema": ("average.name=ema", "average.decay=0.7", "average.every=2"),
    "swa": ("average.name=swa", "average.start=0.3", "average.every=1"),
    "lawa": ("average.name=lawa", "average.newest=3", "average.every=1"),
}


def settings_of(kind, *overrides, ranks=2):
    return small_settings(*OPTIONS[kind], split_over(ranks, 1), *overrides, steps=STEPS)


def state_of(parts):
    """The average's state as one flat dictionary."""
    state = parts.extras["average"].state_dict()
    found = {"count": torch.tensor(state["count"])}
    for key in ("weights", "beside", "kept"):
        found |= {f"{key} {name}": tensor for name, tensor in state.get(key, {}).items()}
    return found


# --- resuming ---


def undisturbed(folder, kind, engine):
    with small_parts(settings_of(kind, "method.name=m-rwp", engine)) as parts:
        run_all(parts, 0, SAVED)
        save(folder, parts, SAVED)
        saved = state_of(parts)
        run_all(parts, SAVED)
        return saved, state_of(parts)


def resumed(folder, kind, engine, ranks):
    settings = settings_of(kind, "method.name=m-rwp", engine, ranks=ranks)
    with small_parts(settings, small_net(seed=9)) as parts:
        load(folder, parts)
        loaded = state_of(parts)
        run_all(parts, SAVED)
        return loaded, state_of(parts)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("engine", ENGINES)
def test_it_is_resumed_bit_for_bit_and_by_other_numbers_of_ranks(tmp_path, kind, engine):
    saved, end = run_ranks(undisturbed, 2, tmp_path, kind, engine)[0]
    for found, ended in run_ranks(resumed, 2, tmp_path, kind, engine, 2):
        assert same_bits(found, saved) and same_bits(ended, end)
    [(found, _)] = run_ranks(resumed, 1, tmp_path, kind, "engine.name=ddp", 1)
    assert same_bits(found, saved)


@pytest.mark.parametrize(("before", "newest"), [(2, 4), (4, 2), (3, 2), (3, 3), (3, 5)])
def test_a_ring_of_another_size_averages_the_newest_that_are_known(before, newest):
    one, other = (NewestAverage([torch.zeros(2)], torch.device("cpu"), n) for n in (before, newest))
    for number in range(1, 6):
        one.take([torch.full((2,), float(number))], torch.tensor(True))
    other.load(5, one.value(5), one.kept(5))
    known = [1.0, 2.0, 3.0, 4.0, 5.0][-min(before, newest) :]
    for number in (6.0, 7.0, 8.0):
        count = int(other.count)
        assert other.kept(count)[0][:, 0].tolist() == known
        assert other.value(count)[0].tolist() == pytest.approx([sum(known) / len(known)] * 2)
        other.take([torch.full((2,), number)], torch.tensor(True))
        known = [*known, number][-newest:]


def taken_after_more_steps(saved_at, steps):
    """How many weights an SWA of a run holds, one update after the run became longer."""
    with small_parts(settings_of("swa", ranks=1)) as parts:
        run_all(parts, 0, saved_at)
        state = parts.extras["average"].state_dict()
    longer = small_settings(*OPTIONS["swa"], split_over(1, 1), steps=steps)
    with small_parts(longer) as parts:
        parts.extras["average"].load_state_dict(state)
        run_all(parts, saved_at, saved_at + 1)
        return parts.extras["average"].state_dict()["count"]


@pytest.mark.parametrize(("steps", "count"), [(40, 0), (30, 1), (20, 7)])
def test_a_longer_run_begins_anew_unless_its_new_start_is_over(steps, count):
    """It starts at step 12, 9 and 6; the shorter one has 9 steps and took those from 3 on."""
    assert run_ranks(taken_after_more_steps, 1, STEPS, steps) == [count]


# --- skipped updates ---


def around_a_poisoned_step(kinds, stage):
    found = []
    for kind in kinds:
        settings = settings_of(kind, f"deepspeed.zero_stage={stage}", "average.every=1")
        with small_parts(settings) as parts:
            loss, states = parts.task.loss, []

            def poison(logits, *targets, loss=loss, states=states):
                return loss(logits, *targets) * (float("inf") if len(states) == 6 else 1.0)

            parts.task.loss = poison
            states += [state_of(parts)]
            for _ in run_steps(parts, 0, STEPS):
                states.append(state_of(parts))
            found.append((states, parts.engine.skipped_steps))
    return found


@pytest.mark.parametrize("stage", [0, 1])
def test_a_skipped_update_changes_no_average(stage):
    for states, skipped in run_ranks(around_a_poisoned_step, 2, list(KINDS), stage)[0]:
        assert skipped == 1
        assert not same_bits(states[5], states[4])
        assert same_bits(states[6], states[5])
        assert not same_bits(states[7], states[6])


class NothingIsAsked(TorchDispatchMode):
    """Refuses to give the host a value of a tensor, for which it would wait for a GPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default, "the host asks for a value"
        return func(*args, **(kwargs or {}))


def step_without_asking(kinds):
    for kind in kinds:
        with small_parts(settings_of(kind, "average.every=1", ranks=1)) as parts:
            run_all(parts, 0, 4)
            applied = parts.engine.step(0.1)
            with NothingIsAsked():
                parts.extras["average"].after_step(4, applied)
            assert int(parts.extras["average"].state_dict()["count"])
    with pytest.raises(AssertionError, match="asks"), NothingIsAsked():
        bool(torch.tensor(True))


def test_the_host_does_not_wait_for_the_device():
    run_ranks(step_without_asking, 1, list(KINDS))


# --- evaluating ---


def evaluated_as(result):
    settings = settings_of("ema", "method.name=m-rwp", f"average.result={result}")
    with small_parts(settings) as parts:
        run_all(parts)
        beside, buffers = evaluate_beside(parts, STEPS)
        with clean_network(parts, STEPS):
            found, _ = evaluate_parts(parts)
            chosen = dict(parts.engine.module.named_buffers())
            chosen = {name: buffer.clone() for name, buffer in chosen.items()}
        return found, beside, chosen, buffers


def test_the_setting_says_which_weights_are_the_result_and_the_others_are_told_beside():
    found = {result: run_ranks(evaluated_as, 2, result) for result in ("average", "trained")}
    for rank in range(2):
        (average, trained_beside, of_average, of_trained), (trained, beside, own, others) = (
            found[result][rank] for result in ("average", "trained")
        )
        for name in ("loss", "top1"):
            assert trained_beside[f"trained_{name}"] == trained[name]
            assert beside[f"average_{name}"] == average[name]
            assert trained_beside[f"average_{name}"] is beside[f"trained_{name}"] is None
        assert average["loss"] != trained["loss"]
        assert same_bits(of_average, others) and same_bits(of_trained, own)
        assert not same_bits(of_average, of_trained)  # statistics of BatchNorm


def copies_after_an_evaluation():
    found = []
    for method in ("sgd", "m-rwp"):
        with small_parts(settings_of("ema", f"method.name={method}", "engine.name=ddp")) as parts:
            run_all(parts)
            with clean_network(parts, STEPS):
                evaluate_parts(parts)
            found.append(len(parts.engine.weights._copies) > 0)
            run_all(parts, STEPS - 1)
    return found


def test_a_method_that_perturbs_nothing_keeps_no_memory_of_an_evaluated_average():
    assert run_ranks(copies_after_an_evaluation, 2) == [[False, True]] * 2


def before_the_first():
    with small_parts(settings_of("swa", ranks=1)) as parts:
        run_all(parts, 0, 2)
        return evaluate_beside(parts, 2), parts.extras["average"].state_dict()


def test_before_the_first_weights_are_taken_the_trained_ones_are_evaluated():
    [(beside, state)] = run_ranks(before_the_first, 1)
    numbers, buffers = beside
    assert {*numbers.values()} == {None} and buffers == {}
    assert state == {"name": "swa", "count": 0}


def whole_run(settings):
    return train(load_settings(None, settings))


def test_a_whole_run_reports_both_and_keeps_the_statistics_of_both(tmp_path):
    write_digits(tmp_path / "digits")
    shards = [f"data.train={tmp_path}/digits/train", f"data.val={tmp_path}/digits/test"]
    run = [f"run.dir={tmp_path}/run", "schedule.steps=3", "run.device=cpu", "data.workers=0"]
    more = ["tracking.wandb=off", "batch.global=64", "average.name=ema"]
    [summary] = run_ranks(whole_run, 1, [*shards, *run, *more])
    run_dir = RunDir(tmp_path / "run")
    [record] = run_dir.read_metrics("eval")
    for name in ("trained_loss", "trained_top1"):
        assert summary[name] == record[name] is not None
    assert summary["loss"] == record["loss"] != record["trained_loss"]
    state = read_checkpoint(run_dir.newest_checkpoint())
    beside = state["parts"]["evaluation"]["buffers_beside"]
    assert beside.keys() == state["buffers"].keys() and not same_bits(beside, state["buffers"])


# --- settings ---


def test_what_an_average_has_no_use_for_is_known():
    assert KINDS.keys() == AVERAGES.keys()
    for name, own in AVERAGES.items():
        settings = load_settings(None, [f"average.name={name}"])
        for keys in AVERAGES.values():
            assert {key for key in keys if uses(settings, f"average.{key}")} == set(keys) & {*own}
        assert uses(settings, "average.every")
    plain = load_settings(None)
    assert not any(uses(plain, f"average.{key}") for key in Average.model_fields if key != "name")


def test_an_average_that_would_take_no_weights_is_refused():
    settings = load_settings(None, ["average.name=swa", "average.every=8", "schedule.steps=10"])
    with pytest.raises(ConfigError, match="every 8 steps from step 8 on, and the run has 10"):
        build_average(settings, None, Timeline.of(settings, 5))


def test_stage_3_is_refused():
    with pytest.raises(ConfigError, match=r"average\.name: stage 3 leaves each rank a share"):
        load_settings(None, ["average.name=ema", "deepspeed.zero_stage=3"])


def test_its_memory_is_counted():
    def held(*overrides, on_gpus=True):
        settings = load_settings(None, overrides)
        return memory.estimate(settings, split_batch(settings, 2), on_gpus=on_gpus)

    weights = held()["weights"]
    assert "average of the weights" not in held()
    assert held("average.name=ema")["average of the weights"] == weights
    assert held("average.name=lawa", "average.newest=3")["average of the weights"] == 3 * weights
    assert "average of the weights" not in held("average.name=ema", "average.device=cpu")
