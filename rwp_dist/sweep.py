"""Several runs one after another in one group of ranks."""

from collections.abc import Sequence

from rwp_dist.config import Settings
from rwp_dist.distributed import choose_device, process_group


def run_all(runs: Sequence[Settings], session: str) -> None:
    """Train every run; what is finished already is not done again.

    Args:
        runs: in this order. Runs of one seed stand side by side, so that a machine that becomes
            slower or faster meanwhile does so for all methods.
        session: their name as a group whose step times may be compared.
    """
    device = choose_device(runs[0].run.device)
    from rwp_dist.train import train  # imports DeepSpeed, which wants to know the device

    with process_group(device):
        for settings in runs:
            train(settings, session)
