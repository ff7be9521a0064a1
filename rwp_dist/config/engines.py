"""What one of the engines alone can do."""

from rwp_dist.config.tree import Settings


def for_ddp_alone(s: Settings) -> dict[str, str]:
    """Keys of settings that DDP alone can work with, and why DeepSpeed cannot."""
    asked = {
        "precision": (
            s.precision == "fp16",
            "losses in fp16 are scaled under DDP alone",
        ),
        "optimizer.clip_value": (
            s.optimizer.clip_value > 0,
            "DeepSpeed clips by the norm of the whole gradient alone",
        ),
        "optimizer.clip_agc": (
            s.optimizer.clip_agc > 0,
            "it looks at whole rows of gradients, and DeepSpeed clips by the norm of all alone",
        ),
    }
    return {key: why for key, (is_asked, why) in asked.items() if is_asked}


def names_deepspeed(s: Settings) -> bool:
    """Whether the settings ask for DeepSpeed, or for what it alone does."""
    if s.engine.name != "auto":
        return s.engine.name == "deepspeed"
    return s.deepspeed.zero_stage not in (0, "auto") or bool(s.deepspeed.extra)
