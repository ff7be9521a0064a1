"""DeepSpeed's configuration: what follows from the settings, and what ``deepspeed.extra`` adds.

Imports neither torch nor DeepSpeed at the top, so that the command line can check
``deepspeed.extra`` before it loads them.
"""

import difflib
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from rwp_dist.base.errors import ConfigError, SettingsError
from rwp_dist.config import Settings, Split
from rwp_dist.engine.memory import BUCKET_ELEMENTS
from rwp_dist.engine.sharding import zero_stage

SET_BY = {
    "optimizer": "optimizer.*",
    "scheduler": "schedule.*",
    "fp16": "precision",
    "bf16": "precision",
    "bfloat16": "precision",
    "amp": "precision",
    "train_batch_size": "batch.global",
    "train_micro_batch_size_per_gpu": "batch.per_rank",
    "gradient_accumulation_steps": "batch.per_rank",
}
"""Keys of DeepSpeed that ``deepspeed.extra`` may not have, and the settings that decide them."""


SPLIT_KEYS = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
)


def deepspeed_config(settings: Settings, split: Split) -> dict[str, Any]:
    """The dictionary for ``deepspeed.initialize``.

    Raises:
        SettingsError: ``deepspeed.extra`` sets what other settings decide, or what none reads.
    """
    problems = list(_contradictions(settings))
    if problems:
        raise SettingsError("deepspeed.extra", problems)
    sizes = (settings.batch.global_, split.size, split.micro_batches)
    fixed = _fixed(settings) | dict(zip(SPLIT_KEYS, sizes, strict=True))
    return _merge(_merge(_preferred(settings), settings.deepspeed.extra), fixed)


def check_extra(config: dict[str, Any]) -> None:
    """Have DeepSpeed itself check what ``deepspeed.extra`` brought into its configuration.

    DeepSpeed ignores top-level keys that it does not know. It has no list of those that it does,
    but it asks the configuration for each, so a key that it never asks for is unknown.

    Imports DeepSpeed.

    Args:
        config: what ``deepspeed_config`` gave.

    Raises:
        ConfigError: DeepSpeed does not know a key, or refuses a value.
    """
    from deepspeed.runtime.config import DeepSpeedConfig

    # One sample, because DeepSpeed's process group, by which it divides, may not be there yet.
    without_split = {key: value for key, value in config.items() if key not in SPLIT_KEYS}
    recorder = _Recorder(without_split | {"train_micro_batch_size_per_gpu": 1})
    try:
        DeepSpeedConfig(recorder)
    except ValidationError as error:
        said = ", ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise _refused(said) from error
    except Exception as error:  # DeepSpeed's own errors and assertions
        raise _refused(str(error)) from error
    unknown = [
        _no_such_key(key, recorder.read) for key in sorted(without_split.keys() - recorder.read)
    ]
    if unknown:
        raise SettingsError("deepspeed.extra", unknown)


def check_energy_buckets(settings: Settings, needed_bytes: int) -> None:
    """Refuse buckets in which DeepSpeed changes gradients that somebody still collects.

    Args:
        settings: of the run.
        needed_bytes: size of the gradients that are collected at once.

    Raises:
        ConfigError: DeepSpeed's buckets are smaller, or its gradients not contiguous.
    """
    zero = settings.deepspeed.extra.get("zero_optimization", {})
    size = 4 * zero.get("reduce_bucket_size", needed_bytes)
    if size < needed_bytes or not zero.get("contiguous_gradients", True):
        raise ConfigError(
            "with arwp and the Triton kernels gradients need contiguous_gradients and a "
            f"reduce_bucket_size of {needed_bytes // 4:,} or more",
            key="deepspeed.extra.zero_optimization",
            cure="change these, or set noise.backend to torch",
        )


def _refused(said: str) -> ConfigError:
    return ConfigError(
        f"DeepSpeed refuses it ({said})", key="deepspeed.extra", cure="correct or remove that"
    )


def _no_such_key(key: str, known: set[str]) -> ConfigError:
    near = difflib.get_close_matches(key, sorted(known), n=1)
    cure = f"did you mean {near[0]}?" if near else "remove it"
    return ConfigError("DeepSpeed has no such key", key=f"deepspeed.extra.{key}", cure=cure)


class _Recorder(dict[str, Any]):
    """A dictionary that records the keys that it is asked for."""

    def __init__(self, content: dict[str, Any]) -> None:
        super().__init__(content)
        self.read: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.read.add(key)
        return super().get(key, default)

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self.read.add(str(key))
        return super().__contains__(key)

    def keys(self) -> Any:
        return self  # `key in config.keys()` asks, too


def _contradictions(settings: Settings) -> Iterator[ConfigError]:
    """What ``deepspeed.extra`` sets although other settings decide it, or nothing reads it."""
    extra = settings.deepspeed.extra
    for key in sorted(extra.keys() & SET_BY.keys()):
        yield ConfigError(
            f"follows from {SET_BY[key]}",
            key=f"deepspeed.extra.{key}",
            cure=f"remove it, and set {SET_BY[key]}",
        )
    if "zero_optimization" in extra and zero_stage(settings) == 0:
        yield ConfigError(
            "is for ZeRO's stages 1 to 3, and deepspeed.zero_stage names none of them",
            key="deepspeed.extra.zero_optimization",
            cure="set deepspeed.zero_stage to 1 or 2, or remove it",
        )
        extra = {key: value for key, value in extra.items() if key != "zero_optimization"}
    for key, fixed, given in _conflicts(_fixed(settings), extra, "deepspeed.extra"):
        yield ConfigError(
            f"is {given!r}, and the other settings make it {fixed!r}", key=key, cure="remove it"
        )


def _conflicts(
    fixed: dict[str, Any], extra: dict[str, Any], path: str
) -> Iterator[tuple[str, Any, Any]]:
    """Key, fixed value and given value of all that differs."""
    for key in sorted(fixed.keys() & extra.keys()):
        here, ours, theirs = f"{path}.{key}", fixed[key], extra[key]
        if isinstance(ours, dict) and isinstance(theirs, dict):
            yield from _conflicts(ours, theirs, here)
        elif ours != theirs:
            yield here, ours, theirs


def _preferred(settings: Settings) -> dict[str, Any]:
    """What ``deepspeed.extra`` may override."""
    buckets = dict.fromkeys(("reduce_bucket_size", "allgather_bucket_size"), BUCKET_ELEMENTS)
    # Empty: the gradients of no type of module are reduced in the type of autocast.
    types: dict[str, Any] = {"lower_precision_safe_modules": []}
    return {
        "zero_optimization": buckets,
        "torch_autocast": {} if _reduces_in_bf16(settings) else types,
        "steps_per_print": 2**62,
        "wall_clock_breakdown": False,
        # Its timer synchronises the device at every forward pass; steps are timed elsewhere.
        "timers": {"throughput": {"enabled": False}},
    }


def _fixed(settings: Settings) -> dict[str, Any]:
    """What other settings decide."""
    stage = zero_stage(settings)
    zero: dict[str, Any] = {"stage": stage}
    if stage:
        zero["overlap_comm"] = settings.deepspeed.overlap_comm
    return {
        "gradient_clipping": settings.optimizer.clip_norm,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "torch_autocast": {"enabled": settings.precision == "bf16", "dtype": "bfloat16"},
        **({"communication_data_type": "bf16"} if _reduces_in_bf16(settings) else {}),
    }


def _reduces_in_bf16(settings: Settings) -> bool:
    return settings.engine.reduce_dtype == "bf16"


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Nested dictionaries as one; values of ``over`` win."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            value = _merge(old, value)
        merged[key] = value
    return merged
