"""Jobs of the job script on the test cluster."""

from collections.abc import Callable
from pathlib import Path

from rwp_dist.record.directory import RunDir
from support.cluster import Cluster
from support.until import until

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "slurm" / "imagenet_rwp.sh"
# Nodes are shared, so that two jobs can meet there; the test machine has few cores.
HEADER = ("--gpus-per-node=0", "--cpus-per-task=1", "--exclusive=user")


class Job:
    """tiny.yaml, trained in the run directory of this name."""

    def __init__(
        self,
        cluster: Cluster,
        work: Path,
        name: str,
        *overrides: str,
        nodes: int = 2,
        **settings: str,
    ) -> None:
        self.cluster, self.name = cluster, name
        self.run = RunDir(work / name)
        env = {"CODE": str(ROOT), "RUN_DIR": str(self.run.path)} | settings
        options = (*HEADER, f"--nodes={nodes}", f"--job-name={name}")
        arguments = (*options, str(SCRIPT), "tiny.yaml", *overrides)
        self.id = cluster.sbatch(*arguments, cwd=work, **env)
        self._log = work / f"{name}-{self.id}.out"

    def log(self) -> list[str]:
        """The lines of the job's log so far."""
        return self._log.read_text().splitlines() if self._log.exists() else []

    def state(self) -> str:
        """Slurm's present state of the job."""
        return self.cluster.job(self.id)["JobState"]

    def end(self) -> str:
        """Wait for the job's end; returns Slurm's state."""
        return self.cluster.wait(self.id, "COMPLETED", "FAILED", "CANCELLED")

    def step(self) -> int:
        """Updates of the weights so far, by the run directory's status."""
        return int((self.run.read_status() or {"step": 0})["step"])

    def saved(self) -> int:
        """The step of the newest checkpoint."""
        names = sorted(path.stem for path in self.run.checkpoints.glob("step-*.pt"))
        return int(names[-1].removeprefix("step-")) if names else 0

    def until_step(self, step: int) -> None:
        """Wait until this many updates are done."""
        self.until(lambda: self.step() >= step, f"step {step}")

    def until_line(self, text: str) -> None:
        """Wait until a line of the log has this text."""
        self.until(lambda: any(text in line for line in self.log()), text)

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for a condition; if it does not come in time, fail with the job's log."""
        until(condition, lambda: "\n".join([what, *self.log()]), every_s=0.1)
