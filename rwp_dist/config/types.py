"""Types of settings: what a value may be, and what changing it does to a run."""

from enum import Enum
from typing import Annotated, Any

from pydantic import BeforeValidator, Field


class Affects(Enum):
    """What another value of a setting changes. A setting without this tag affects the result."""

    NOTHING = "nothing"
    """Every update and every result stays the same, bit for bit."""

    ROUNDING = "rounding"
    """The same computation in other bits: another order of additions, another random stream."""

    RESULT = "result"
    """What is computed, or how it is measured."""


def _refuse_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("it should be a number, not true or false")
    return value


def _bare_off(value: Any) -> Any:
    return "off" if value is False else value  # YAML reads a bare off as false


NoBool = BeforeValidator(_refuse_bool)
BareOff = BeforeValidator(_bare_off)

Integer = Annotated[int, NoBool]
Count = Annotated[Integer, Field(ge=0)]
Size = Annotated[Integer, Field(gt=0)]
Seed = Annotated[Integer, Field(ge=0, lt=2**63)]
Number = Annotated[float, NoBool]
NonNegativeFloat = Annotated[Number, Field(ge=0.0)]
PositiveFloat = Annotated[Number, Field(gt=0.0)]
Fraction = Annotated[Number, Field(ge=0.0, le=1.0)]
BelowOne = Annotated[Number, Field(ge=0.0, lt=1.0)]
