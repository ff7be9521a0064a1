"""Several runs, one after another, in one group of ranks."""

from collections.abc import Sequence

from rwp_dist.base.errors import Interrupted
from rwp_dist.config import Settings
from rwp_dist.process import signals
from rwp_dist.process.meeting import refused_together
from rwp_dist.process.stages import loading
from rwp_dist.record.directory import RunDir


def run_all(runs: Sequence[Settings], session: str) -> None:
    """Train every run that is not finished yet.

    Args:
        runs: in this order. Runs of one seed are neighbours, so that a machine that becomes slower
            or faster during the sweep does so for all methods.
        session: name of the sweep; step times within one session may be compared. Empty for a
            single run.

    Raises:
        Interrupted: a signal ended one of the runs, after a checkpoint; later ones did not start.
    """
    series = Series(runs, is_sweep=bool(session))
    signals.say_on_ctrl_c(series.ctrl_c_message)
    with loading():
        from rwp_dist.process.group import choose_device, process_group

        with refused_together():
            device = choose_device(runs[0].run.device)
        from rwp_dist.train import train

    with process_group(device):
        for series.current, settings in enumerate(runs):
            position = (series.current + 1, len(runs)) if session else None
            try:
                train(settings, session, position)
            except Interrupted as stop:
                if not session:
                    raise
                raise series.interrupted(f"{stop.problem}.\n") from None


class Series:
    """Runs that are trained in turn, and what Ctrl-C has to say between two of their steps."""

    def __init__(self, runs: Sequence[Settings], is_sweep: bool) -> None:
        self.dirs = [RunDir(str(settings.run.dir)) for settings in runs]
        self.is_sweep, self.current = is_sweep, 0
        self._before = [run_dir.read_status() for run_dir in self.dirs]

    def interrupted(self, where: str) -> Interrupted:
        """The error of a series that was stopped; it begins with ``where``."""
        finished = sum(run_dir.summary.is_file() for run_dir in self.dirs)
        total = len(self.dirs)
        if finished == total:
            return Interrupted(f"{where}All {total} runs are finished.", cure=None)
        return Interrupted(
            f"{where}{finished} of {total} runs are finished",
            cure="start the same command again to go on with the rest",
        )

    def ctrl_c_message(self) -> str | None:
        """What Ctrl-C says outside of training; None once all has been said and done."""
        status = self.dirs[self.current].read_status() or {}
        ours = status != self._before[self.current]  # not of an earlier attempt
        is_last = self.current == len(self.dirs) - 1
        if ours and status.get("state") == "interrupted":
            return None
        if ours and status.get("state") == "finished" and is_last:
            return None
        if not self.is_sweep:
            return signals.nothing_lost()
        return str(self.interrupted("Stopped between steps. "))
