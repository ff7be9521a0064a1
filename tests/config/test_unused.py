"""What a run has no use for, compared with what the code computes."""

from functools import cache

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rwp_dist.config import load_settings, split_batch, uses
from rwp_dist.config.tree import OPTIMIZERS, SCHEDULES
from rwp_dist.perturb import METHODS, Perturbed
from rwp_dist.run.optimizers import build_optimizer
from rwp_dist.run.slots import slots_of
from rwp_dist.run.timeline import Timeline

COMMON = ("schedule.steps=6", "batch.global=16", "batch.per_rank=4")
OF_METHOD = {  # a value other than the default
    "sigma": "0.7",
    "rho": "0.7",
    "lambda": "0.3",
    "sigma_schedule": "increase",
    "sigma_increase": "3",
    "warmup_steps": "2",
    "warmup_epochs": "1",
    "every": "3",
    "start": "0.5",
    "stop": "0.5",
    "eta": "3",
    "beta": "0.1",
    "power": "1",
    "scale": "tensor",
    "exclude": "[]",
    "antithetic": "true",
}


@cache
def trained(*overrides: str) -> torch.Tensor:
    """All weights after six updates, with the parts that a run builds from its settings."""
    settings = load_settings(None, [*COMMON, *overrides])
    timeline, m = Timeline.of(settings, steps_per_epoch=3), settings.method
    strength = METHODS[m.name].strength
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    noisy = Perturbed(
        model,
        m.name,
        **({strength: timeline.strength} if strength else {}),
        exclude=m.exclude,
        scale=m.scale,
        eta=m.eta,
        beta=m.beta,
        power=m.power,
        backend="torch",
        slots=slots_of(settings, split_batch(settings, 1)),
    )
    optimizer = build_optimizer(model, settings)
    for step in range(timeline.total_steps):
        for micro_batch in range(len(noisy.my_slots)):
            x, y = torch.randn(4, 4), torch.randint(3, (4,))

            def loss(x=x, y=y):
                return F.cross_entropy(model(x), y)

            with noisy(step, micro_batch, loss=loss):
                (noisy.weight * loss()).backward()
        for group in optimizer.param_groups:
            group["lr"] = timeline.lr(step) * group.get("lr_factor", 1.0)
        optimizer.step()
        optimizer.zero_grad()
        noisy.end_step()
    return torch.cat([param.detach().flatten() for param in model.parameters()])


def assert_used_if_it_changes_a_run(key: str, value: str, *overrides: str) -> None:
    settings = load_settings(None, [*COMMON, *overrides])
    changes = not torch.equal(trained(*overrides), trained(*overrides, f"{key}={value}"))
    assert uses(settings, key) == changes, key


@pytest.mark.parametrize("method", METHODS)
def test_a_method_uses_the_settings_that_change_its_updates(method: str) -> None:
    for key, value in OF_METHOD.items():
        if key == "antithetic" and not METHODS[method].draws_noise:
            continue  # refused
        for schedule in ("constant", "increase", "auto"):
            name, chosen = f"method.name={method}", f"method.sigma_schedule={schedule}"
            if key != "sigma_schedule":
                assert_used_if_it_changes_a_run(f"method.{key}", value, name, chosen)
        if key == "sigma_schedule":
            assert_used_if_it_changes_a_run("method.sigma_schedule", value, name)


def test_every_setting_of_a_method_is_known() -> None:
    named = set().union(*(method.settings for method in METHODS.values()))
    assert named == {*OF_METHOD, "name"}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_uses_the_settings_that_change_its_updates(name: str) -> None:
    nesterov = "false" if name == "muon" else "true"  # not the default
    values = {"momentum": "0.5", "nesterov": nesterov, "betas": "[0.5,0.5]", "eps": "1"}
    values |= {"trust_coefficient": "0.5"}
    assert {key for keys in OPTIMIZERS.values() for key in keys} == {*values}
    common = {"lr": "0.3", "weight_decay": "0.3", "lr_factors": "{0.weight: 2}", "base_batch": "8"}
    for key, value in (values | common).items():
        if key != "nesterov" or "nesterov" in OPTIMIZERS[name]:  # refused
            assert_used_if_it_changes_a_run(f"optimizer.{key}", value, f"optimizer.name={name}")


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_uses_the_settings_that_change_its_updates(schedule: str) -> None:
    given = [f"schedule.name={schedule}"]
    own = SCHEDULES[schedule]
    given += ["schedule.decay_steps=[2]"] if "decay_steps" in own else []
    values = {"gamma": "0.5", "epochs": "5", "warmup_steps": "2", "power": "2"}
    values |= {"warmup_from": "0.5"} | ({"min_lr": "0.01"} if "min_lr" in own else {})  # refused
    for key, value in values.items():
        assert_used_if_it_changes_a_run(f"schedule.{key}", value, *given)
    settings = load_settings(None, given)
    for key in {key for keys in SCHEDULES.values() for key in keys}:
        hidden = ("decay_epochs",) if "decay_steps" in own else ()
        assert uses(settings, f"schedule.{key}") == (key in own and key not in hidden)


def test_a_warmup_uses_where_it_begins_and_a_cooldown_how_long_it_lasts() -> None:
    assert_used_if_it_changes_a_run("schedule.warmup_from", "0.5", "schedule.warmup_steps=3")
    assert_used_if_it_changes_a_run("schedule.cooldown_steps", "2", "schedule.min_lr=0.01")


def test_options_belong_to_an_optimizer_of_ones_own_and_noise_to_methods_that_draw_it() -> None:
    named = load_settings(None, ["optimizer.name=mine:make"])
    assert uses(named, "optimizer.options.a") and not uses(named, "optimizer.momentum")
    assert not uses(load_settings(None), "optimizer.options.a")
    for method, data in METHODS.items():
        settings = load_settings(None, [f"method.name={method}"])
        assert uses(settings, "noise.backend") == data.draws_noise
    assert uses(load_settings(None), "no.such.setting")


@pytest.mark.parametrize(
    ("key", "without", "used"),
    [
        ("data.train", "data.mix={a: 1}", "data.mix={}"),
        ("augment.scale", "augment.crop=pad", "augment.crop=random_resized"),
        ("augment.pad", "augment.crop=none", "augment.crop=pad"),
        ("augment.num_ops", "augment.auto=trivial", "augment.auto=randaugment"),
        ("augment.magnitude", "augment.auto=none", "augment.auto=randaugment"),
    ],
)
def test_data_and_augmentation_use_what_their_kind_reads(key: str, without: str, used: str) -> None:
    assert not uses(load_settings(None, [without]), key)
    assert uses(load_settings(None, [used]), key)
