"""Types of settings: what a value may be, and what changing it does to a run."""

from enum import Enum
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from rwp_dist.base.named import is_named


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

    RESULT = "result"
    """What is computed, or how it is measured."""


def _refuse_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("it should be a number, not true or false")
    return value


def _bare_off(value: Any) -> Any:
    return "off" if value is False else value  # YAML reads a bare off as false


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
BareOff = BeforeValidator(_bare_off)

Integer = Annotated[int, NoBool]
Count = Annotated[Integer, Field(ge=0)]
Size = Annotated[Integer, Field(gt=0)]
Seed = Annotated[Integer, Field(ge=0, lt=2**63)]
Number = Annotated[float, NoBool]
WandbName = Annotated[str, _wandb_text(128)]
WandbTag = Annotated[str, _wandb_text(64)]
WandbId = Annotated[str, _wandb_text(64, "/\\#?%: ")]
WandbPath = Annotated[str, _wandb_text(128, "/\\#?%:")]
NonNegativeFloat = Annotated[Number, Field(ge=0.0)]
PositiveFloat = Annotated[Number, Field(gt=0.0)]
Fraction = Annotated[Number, Field(ge=0.0, le=1.0)]
BelowOne = Annotated[Number, Field(ge=0.0, lt=1.0)]
