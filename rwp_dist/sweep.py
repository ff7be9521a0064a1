"""Several runs one after another in one group of ranks."""

import time
from collections.abc import Sequence

from rwp_dist.base.errors import Interrupted
from rwp_dist.config import Settings
from rwp_dist.process import signals as ending
from rwp_dist.record.directory import RunDir


def run_all(runs: Sequence[Settings], session: str) -> None:
    """Train every run; what is finished already is not done again.

    Args:
        runs: in this order. Runs of one seed stand side by side, so that a machine that becomes
            slower or faster meanwhile does so for all methods.
        session: their name as a group whose step times may be compared; empty for a single run.

    Raises:
        Interrupted: a signal ended one of them after a checkpoint; those after it have not begun.
    """
    standing = Standing(runs, bool(session))
    ending.ctrl_c_says(standing.when_stopped)
    from rwp_dist.process.group import choose_device, process_group

    device = choose_device(runs[0].run.device)
    from rwp_dist.train import train  # imports DeepSpeed, which wants to know the device

    with process_group(device):
        for standing.current, settings in enumerate(runs):
            try:
                train(settings, session, (standing.current + 1, len(runs)) if session else None)
            except Interrupted as stop:
                if not session:
                    raise
                raise Interrupted(f"{stop}\n{standing}") from None


class Standing:
    """How far a series of runs has come."""

    def __init__(self, runs: Sequence[Settings], is_sweep: bool) -> None:
        self.dirs = [RunDir(str(settings.run.dir)) for settings in runs]
        self.is_sweep, self.current, self.began = is_sweep, 0, time.time()

    def __str__(self) -> str:
        finished = sum(run_dir.summary.is_file() for run_dir in self.dirs)
        total = len(self.dirs)
        if finished == total:
            return f"All {total} runs are finished."
        return (
            f"{finished} of {total} runs are finished; start the same command again to go on with "
            "the rest."
        )

    def when_stopped(self) -> str | None:
        """What Ctrl-C says where no step is being trained; None if all is over anyway."""
        status = self.dirs[self.current].read_status() or {}
        ours = status.get("time", 0.0) >= self.began
        if ours and status.get("state") == "interrupted":
            return None
        if ours and status.get("state") == "finished" and self.current == len(self.dirs) - 1:
            return None
        return f"Stopped between steps. {self}" if self.is_sweep else ending.nothing_lost()
