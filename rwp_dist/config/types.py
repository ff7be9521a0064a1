"""Types of settings: what a value may be, and what changing it does to a run."""

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from rwp_dist.base.files import expand_home
from rwp_dist.base.named import is_named
from rwp_dist.base.urls import is_address

MOST_CONFUSED = 5000
"""Classes of a confusion matrix, which has a number for each two of them."""


class Affects(Enum):
    """What another value of a setting changes. A setting without this tag affects the result."""

    NOTHING = "nothing"
    """Every update and every result stays the same, bit for bit."""

    PLACE = "place"
    """Where data are. They may be the same data elsewhere: checkpoints identify them by content."""

    ROUNDING = "rounding"
    """The same computation in other bits: another order of additions, another random stream."""

    SPLIT = "split"
    """How a batch is split, as the number of ranks does: which samples see which noise, what
    BatchNorm sees, and the batch of SAM's ascent step. The samples of an update, their order and
    the formulas stay the same. Another machine has other memory, so a run may go on with it."""

    EVALUATION = "evaluation"
    """What a network is evaluated on. Of no setting, but of the content of the evaluation data."""

    CODE = "code"
    """The program. Of no setting, but of versions and commits."""

    RESULT = "result"
    """What is computed, or how it is measured."""


def _refuse_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("it should be a number, not true or false")
    return value


def _refuse_other(value: Any) -> Any:
    if not isinstance(value, bool):
        raise ValueError("it should be true or false")
    return value


def _place(value: str, info: ValidationInfo) -> str:
    if is_address(value):
        return value
    if value.startswith("~"):
        value = expand_home(value)
    return str(Path(value).absolute()) if info.context is ABSOLUTE else value


TORCHVISION, TIMM = "torchvision:", "timm:"
LIBRARIES = (TORCHVISION, TIMM)
"""What a setting begins with that names weights of a library, and no path."""


def _weights(value: str, info: ValidationInfo) -> str:
    return value if value.startswith(LIBRARIES) else _place(value, info)


def _refuse_same(value: Any, places: ValidatorFunctionWrapHandler) -> Any:
    found = places(value)
    if len(found) < len(value):
        raise ValueError("two of its keys are one place")
    return found


def one_of_or_named(*known: str) -> AfterValidator:
    """A validator for one of some names, or ``module:function``."""

    def check(value: str) -> str:
        if value not in known and not is_named(value):
            raise ValueError(f"Input should be {', '.join(map(repr, known))} or module:function")
        return value

    return AfterValidator(check)


def _wandb_text(most: int, forbidden: str = "") -> AfterValidator:
    """A validator for text within W&B's limits."""

    def check(value: str) -> str:
        if not 1 <= len(value) <= most or set(value) & set(forbidden):
            without = f", none of {' '.join(forbidden)}" if forbidden else ""
            raise ValueError(f"it should have 1 to {most} characters{without}")
        return value

    return AfterValidator(check)


NoBool = BeforeValidator(_refuse_bool)
Flag = Annotated[bool, BeforeValidator(_refuse_other)]
"""YAML 1.2 has no other words for these two: yes, on and 1 are refused."""
ABSOLUTE = object()
"""The context of a validation that makes every ``Place`` an absolute one."""
Place = Annotated[str, AfterValidator(_place)]
"""A path, with its ``~`` expanded, or an address."""
WeightsPlace = Annotated[str, AfterValidator(_weights)]
"""A ``Place``, or weights of a library: ``torchvision:DEFAULT``, ``timm:NAME``."""
DifferentPlaces = WrapValidator(_refuse_same)
"""For a mapping by ``Place``."""

Integer = Annotated[int, NoBool]
MOST = 2**31 - 1
"""Of any whole number but a seed: more is a mistake, or would take more than any machine has."""
Count = Annotated[Integer, Field(ge=0, le=MOST)]
Size = Annotated[Integer, Field(gt=0, le=MOST)]
MOST_PIXELS, MOST_SAMPLES, MOST_PROCESSES = 2**13, 2**24, 2**10
"""Of the side of an image, of one update, and of processes, threads and the like."""
Seed = Annotated[Integer, Field(ge=0, lt=2**63)]
Number = Annotated[float, NoBool]
WandbName = Annotated[str, _wandb_text(128)]
WandbTag = Annotated[str, _wandb_text(64)]
WandbId = Annotated[str, _wandb_text(64, "/\\#?%: ")]
WandbPath = Annotated[str, _wandb_text(128, "/\\#?%:")]
NonNegativeFloat = Annotated[Number, Field(ge=0.0)]
PositiveFloat = Annotated[Number, Field(gt=0.0)]
Duration = Annotated[Number, Field(ge=0.0, le=1e9)]
"""In epochs or seconds."""
Fraction = Annotated[Number, Field(ge=0.0, le=1.0)]
Hue = Annotated[Number, Field(ge=0.0, le=0.5)]
"""In turns of the colour wheel."""
BelowOne = Annotated[Number, Field(ge=0.0, lt=1.0)]
