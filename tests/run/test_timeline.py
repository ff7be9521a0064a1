"""Durations in steps, and the strength of the perturbation along a run."""

import math
import re
from collections.abc import Callable

import pytest

from rwp_dist.base.errors import ConfigError
from rwp_dist.config import load_settings, tree
from rwp_dist.perturb import METHODS
from rwp_dist.run.schedules import SCHEDULES
from rwp_dist.run.timeline import Timeline


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["schedule.steps=10", "schedule.warmup_epochs=100"], "schedule.warmup_epochs"),
        (["schedule.epochs=2", "schedule.warmup_steps=100"], "schedule.warmup_steps"),
        (["schedule.steps=10", "method.warmup_epochs=100"], "method.warmup_epochs"),
        (["schedule.epochs=2", "method.warmup_steps=100"], "method.warmup_steps"),
        (["schedule.steps=123457", "method.warmup_epochs=1e6"], "method.warmup_epochs"),
    ],
)
@pytest.mark.parametrize("steps_per_epoch", [1, 3, 7])
def test_a_warmup_longer_than_the_run_is_refused_and_the_cure_works(
    overrides: list[str], key: str, steps_per_epoch: int
) -> None:
    settings = load_settings(None, overrides)
    with pytest.raises(ConfigError, match=r"lasts .* steps and the whole run") as caught:
        Timeline.of(settings, steps_per_epoch)
    assert caught.value.key == key
    cure = re.search(r"set it to ([\d.e+]+) or less", caught.value.cure or "")
    assert cure, caught.value
    Timeline.of(load_settings(None, [*overrides, f"{key}={cure[1]}"]), steps_per_epoch)


@pytest.mark.parametrize(
    ("every_epochs", "due"),
    [(0, {12}), (1, {4, 8, 12}), (0.5, {2, 4, 6, 8, 10, 12}), (0.1, set(range(1, 13)))],
)
def test_something_is_due_after_the_nearest_whole_step_and_at_the_end(
    every_epochs: float, due: set[int]
) -> None:
    timeline = Timeline.of(load_settings(None, ["schedule.steps=12"]), steps_per_epoch=4)
    assert {step for step in range(1, 13) if timeline.is_due(every_epochs, step)} == due
    for step in range(12):
        assert timeline.steps_until(every_epochs, step) == min(d for d in due if d > step) - step


# --- learning rate ---

STEPS = 20


def rates(*overrides: str) -> list[float]:
    """Of every step."""
    settings = load_settings(None, [f"schedule.steps={STEPS}", "optimizer.lr=1", *overrides])
    timeline = Timeline.of(settings, steps_per_epoch=4)
    return [timeline.lr(step) for step in range(STEPS)]


def cosine(share: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * share))


LOW = ("schedule.min_lr=0.1",)
RATES: tuple[tuple[tuple[str, ...], Callable[[int], float]], ...] = (
    # settings, and the learning rate of a step; a warm-up of 4 steps where there is one
    ((), lambda t: cosine(t / 20)),
    (LOW, lambda t: 0.1 + 0.9 * cosine(t / 20)),
    ((*LOW, "schedule.cooldown_steps=5"), lambda t: 0.1 + 0.9 * cosine(min(t / 15, 1))),
    ((*LOW, "schedule.cooldown_epochs=1.25"), lambda t: 0.1 + 0.9 * cosine(min(t / 15, 1))),
    (
        (*LOW, "schedule.warmup_epochs=1", "schedule.cooldown_steps=4"),
        lambda t: (t + 1) / 4 if t < 4 else 0.1 + 0.9 * cosine(min((t - 4) / 12, 1)),
    ),
    (
        ("schedule.warmup_steps=4", "schedule.warmup_from=0.2"),
        lambda t: 0.2 + 0.8 * (t + 1) / 4 if t < 4 else cosine((t - 4) / 16),
    ),
    (("schedule.name=polynomial",), lambda t: 1 - t / 20),
    (
        ("schedule.name=polynomial", "schedule.power=2", *LOW, "schedule.cooldown_steps=2"),
        lambda t: 0.1 + 0.9 * max(1 - t / 18, 0) ** 2,
    ),
    (
        ("schedule.name=wsd", "schedule.decay_epochs=[3]", "schedule.warmup_steps=4"),
        lambda t: (t + 1) / 4 if t < 4 else 1.0 if t < 12 else 1 - (t - 12) / 8,
    ),
    (
        ("schedule.name=wsd", "schedule.decay_steps=[10]", "schedule.power=0.5", *LOW),
        lambda t: 1.0 if t < 10 else 0.1 + 0.9 * (1 - (t - 10) / 10) ** 0.5,
    ),
    (
        ("schedule.name=step", "schedule.decay_steps=[5,15]", "schedule.gamma=0.5"),
        lambda t: 1.0 if t < 5 else 0.5 if t < 15 else 0.25,
    ),
    (("schedule.name=constant", "schedule.warmup_steps=2"), lambda t: 0.5 if t < 1 else 1.0),
)


@pytest.mark.parametrize(("overrides", "rate"), RATES, ids=[str(words)[:60] for words, _ in RATES])
def test_the_learning_rate_is_that_of_its_schedule(
    overrides: tuple[str, ...], rate: Callable[[int], float]
) -> None:
    assert rates(*overrides) == pytest.approx([rate(step) for step in range(STEPS)], abs=1e-12)


def test_the_settings_know_the_names_of_all_schedules_and_each_is_tested() -> None:
    assert SCHEDULES.keys() == tree.SCHEDULES.keys()
    named = {o.partition("=")[2] for overrides, _ in RATES for o in overrides if "name=" in o}
    assert {*named, "cosine"} == SCHEDULES.keys()


def test_rates_of_earlier_versions_have_the_same_bits() -> None:
    """As the formulas were written then."""
    for step, rate in enumerate(rates("optimizer.lr=0.3", "schedule.warmup_steps=7")):
        old = 0.3 * (step + 1) / 7
        if step >= 7:
            old = 0.3 * 0.5 * (1.0 + math.cos(math.pi * (step - 7) / 13))
        assert rate == old


def test_the_rate_of_a_batch_is_in_proportion_to_it() -> None:
    one = rates("batch.global=64", *LOW)
    assert rates("batch.global=64", "optimizer.base_batch=64", *LOW) == one
    four = rates("batch.global=256", "optimizer.base_batch=64", *LOW)
    assert four[0] == 4.0 and four[-1] == pytest.approx(one[-1], rel=0.3), "min_lr is as it is"


REFUSED = (
    (("schedule.cooldown_steps=3",), "schedule.cooldown_steps"),  # at 0
    (("schedule.name=step", "schedule.decay_steps=[3]", *LOW), "schedule.min_lr"),
    (("schedule.name=constant", "schedule.cooldown_epochs=1"), "schedule.cooldown_epochs"),
    (("schedule.name=wsd",), "schedule.decay_epochs"),
    (("schedule.name=wsd", "schedule.decay_steps=[3,6]"), "schedule.decay_epochs"),
    (("schedule.name=wsd", "schedule.decay_steps=[20]"), "schedule.decay_steps"),
    (("schedule.name=wsd", "schedule.decay_epochs=[5]"), "schedule.decay_epochs"),
    (
        ("schedule.name=wsd", "schedule.decay_steps=[3]", "schedule.warmup_steps=4"),
        "schedule.decay_steps",
    ),
    (("schedule.min_lr=2",), "schedule.min_lr"),
    (("optimizer.base_batch=6400", *LOW), "schedule.min_lr"),
    (("schedule.cooldown_steps=15", "schedule.warmup_steps=6", *LOW), "schedule.warmup_steps"),
    (("schedule.cooldown_epochs=6", *LOW), "schedule.cooldown_epochs"),
)


@pytest.mark.parametrize(("overrides", "key"), REFUSED, ids=lambda v: str(v)[:60])
def test_parts_of_a_run_that_do_not_fit_are_refused_with_the_cure(
    overrides: tuple[str, ...], key: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        rates("method.name=sgd", *overrides)
    [error] = getattr(caught.value, "problems", [caught.value])
    assert error.key == key and error.cure


# --- strength ---

COSINE = ("schedule.name=cosine", "schedule.warmup_steps=6")
STEPPED = ("schedule.name=step", "schedule.decay_steps=[8, 14]", "schedule.warmup_steps=2")
WSD = ("schedule.name=wsd", "schedule.decay_steps=[12]", "schedule.warmup_steps=2")

WINDOWS = (
    # settings, and the steps in which passes are perturbed
    ((), range(STEPS)),
    (("method.warmup_steps=5",), range(5, STEPS)),
    (("method.warmup_epochs=1.5",), range(6, STEPS)),  # of 4 steps each
    (("method.every=3",), range(0, STEPS, 3)),
    (("method.every=3", "method.warmup_steps=4"), range(6, STEPS, 3)),
    (("method.start=0.5",), range(10, STEPS)),
    (("method.stop=0.25",), range(5)),
    (("method.start=0.3", "method.stop=0.7", "method.every=4"), (8, 12)),
    (("method.start=0.26",), range(5, STEPS)),  # to the nearest step
    (("method.stop=0",), ()),
    (("method.start=decay", *COSINE), range(6, STEPS)),
    (("method.stop=decay", *COSINE), range(6)),
    (("method.start=decay", *STEPPED), range(8, STEPS)),
    (("method.stop=decay", *STEPPED), range(8)),
    (("method.start=decay", *WSD), range(12, STEPS)),
    (("method.start=decay", "schedule.name=polynomial", *COSINE[1:]), range(6, STEPS)),
)


@pytest.mark.parametrize("method", [name for name, m in METHODS.items() if m.move])
@pytest.mark.parametrize(("overrides", "perturbed"), WINDOWS, ids=lambda v: str(v)[:40])
def test_strength_is_0_exactly_where_the_settings_say(
    method: str, overrides: tuple[str, ...], perturbed: tuple[int, ...]
) -> None:
    common = [f"method.name={method}", "method.sigma=0.1", "method.rho=0.2"]
    common.append("method.sigma_schedule=auto")
    settings = load_settings(None, [*common, *overrides, f"schedule.steps={STEPS}"])
    timeline = Timeline.of(settings, steps_per_epoch=4)
    strengths = [timeline.strength(step) for step in range(STEPS)]
    assert [step for step in range(STEPS) if strengths[step]] == list(perturbed)
    if METHODS[method].strength == "rho":
        assert {s for s in strengths if s} <= {0.2}
    elif METHODS[method].increasing:  # its ramp belongs to the run, not to the window
        whole = Timeline.of(load_settings(None, [*common, f"schedule.steps={STEPS}"]), 4)
        assert all(strengths[step] == whole.strength(step) for step in perturbed)
        assert whole.strength(0) == 0.1 < whole.strength(1)
    else:
        assert {s for s in strengths if s} <= {0.1}


NEVER = (
    # settings in which no step is perturbed, and the key at fault
    (("method.start=0.8", "method.stop=0.2"), "method.stop"),
    (("method.start=1",), "method.stop"),
    (("method.start=decay", "method.stop=decay"), "method.stop"),
    (("method.start=decay", "schedule.name=constant"), "method.start"),
    (("method.stop=decay", "schedule.name=constant"), "method.stop"),
    (("method.start=0.5", "method.stop=0.51"), "method"),  # both are step 10
    (("method.start=decay", "method.stop=0.3", *COSINE), "method"),
    (("method.stop=decay",), "method"),  # a cosine without warm-up decays at once
    (("method.warmup_steps=8", "method.stop=0.4"), "method"),
    (("method.warmup_steps=2", "method.every=20"), "method"),
    (("method.warmup_steps=20",), "method.warmup_steps"),
)


@pytest.mark.parametrize("method", ["m-arwp", "sam"])
@pytest.mark.parametrize(("overrides", "key"), NEVER, ids=lambda v: str(v)[:40])
def test_a_run_that_would_never_perturb_is_refused(
    method: str, overrides: tuple[str, ...], key: str
) -> None:
    common = (f"method.name={method}", f"schedule.steps={STEPS}")
    with pytest.raises(ConfigError) as caught:
        Timeline.of(load_settings(None, [*common, *overrides]), steps_per_epoch=4)
    [error] = getattr(caught.value, "problems", [caught.value])
    assert error.key == key and error.cure


def test_a_run_of_two_billion_steps_is_judged_at_once() -> None:
    long = ["schedule.steps=2147483647", "method.every=2147483647", "method.warmup_steps=1"]
    with pytest.raises(ConfigError, match="no step is perturbed"):
        Timeline.of(load_settings(None, long), steps_per_epoch=4)


def test_never_to_perturb_may_be_asked_for() -> None:
    asked = (["method.stop=0", "method.start=0.5"], ["method.sigma=0", "method.every=20"])
    for overrides in (*asked, ["method.name=sgd", "method.warmup_steps=2", "method.every=20"]):
        more = [*overrides, "method.warmup_steps=2", f"schedule.steps={STEPS}"]
        timeline = Timeline.of(load_settings(None, more), steps_per_epoch=4)
        assert not any(map(timeline.strength, range(STEPS)))


def test_sgd_has_no_strength() -> None:
    timeline = Timeline.of(load_settings(None, ["method.name=sgd", "schedule.steps=9"]), 4)
    assert {timeline.strength(step) for step in range(9)} == {0.0}
