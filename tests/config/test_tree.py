"""The settings import no torch, so they repeat what the code knows; here both are compared."""

import inspect
from dataclasses import fields
from typing import get_args

from rwp_dist.config.tree import Augment, Data, Method, MethodName, Noise, Section
from rwp_dist.data.image import Tier, TrainTransform
from rwp_dist.data.image.transforms import Interpolation
from rwp_dist.perturb import METHODS, Perturbed
from rwp_dist.perturb.normals import Backend
from rwp_dist.perturb.scale import Scale


def choices(section: type[Section], name: str) -> tuple[str, ...]:
    return get_args(section.model_fields[name].annotation)


def default(section: type[Section], name: str) -> object:
    return section.model_fields[name].default


def test_the_settings_offer_what_there_is() -> None:
    assert get_args(MethodName) == tuple(METHODS)
    assert choices(Method, "scale") == get_args(Scale)
    assert choices(Noise, "backend") == ("auto", *get_args(Backend))
    assert choices(Data, "decoder") == get_args(Tier)
    assert choices(Data, "interpolation") == get_args(Interpolation)


def test_the_library_has_the_defaults_of_the_settings() -> None:
    arguments = inspect.signature(Perturbed).parameters
    for name in ("lambda_", "antithetic", "scale", "exclude", "eta", "beta", "power"):
        assert arguments[name].default == default(Method, name), name
    for name, method in METHODS.items():
        if method.strength:
            assert getattr(Method(name=name), method.strength) == method.default_strength, name
    assert arguments["backend"].default == default(Noise, "backend")
    assert arguments["draw_ahead"].default == default(Noise, "prefetch")


def test_augmentation_has_the_defaults_of_the_settings() -> None:
    own = {field.name: field.default for field in fields(TrainTransform)}
    for name in ("scale", "pad", "auto", "num_ops", "magnitude", "cutout", "erase"):
        assert own[name] == default(Augment, name), name
    assert own["interpolation"] == default(Data, "interpolation")
