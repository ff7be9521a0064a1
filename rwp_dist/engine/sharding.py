"""What follows from the parts of a run that ZeRO shares out. Imports neither torch nor DeepSpeed.

Code that does not know ZeRO's stages asks these questions.
"""

from rwp_dist.config import Settings
from rwp_dist.config.engines import names_deepspeed


def zero_stage(settings: Settings) -> int:
    """The ZeRO stage; ``auto`` is 0, unless ``with_zero_stage`` has replaced it by another."""
    stage = settings.deepspeed.zero_stage
    return 0 if stage == "auto" else stage


def uses_deepspeed(settings: Settings) -> bool:
    """Whether DeepSpeed trains: it is named, or asked for what it alone does."""
    return names_deepspeed(settings)


def engine_name(settings: Settings) -> str:
    """What a person calls it: "DDP", "DeepSpeed at stage 1"."""
    return f"DeepSpeed at stage {zero_stage(settings)}" if uses_deepspeed(settings) else "DDP"


def shares_weights(settings: Settings) -> bool:
    """Whether all ranks see the same weights in a pass, because each holds a shard of them."""
    return zero_stage(settings) == 3


def hands_out_flat_shards(settings: Settings) -> bool:
    """Whether the optimizer gets flat shards of all parameters in place of the parameters."""
    return zero_stage(settings) > 0


def needs_copy(settings: Settings, num_perturbed: int) -> bool:
    """Whether perturbed weights take memory of their own.

    Under DDP and at stage 0 they always do. At stages 1 and 2 the optimizer's step brings the clean
    weights back, which is enough for one perturbed pass in an update. Stage 3 restores them from
    its shards.

    Args:
        settings: of the run.
        num_perturbed: most perturbed passes of any one rank in one update.
    """
    if shares_weights(settings):
        return False
    return not hands_out_flat_shards(settings) or num_perturbed > 1
