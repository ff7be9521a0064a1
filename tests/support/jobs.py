"""Jobs of the job script on the test cluster."""

import time
from pathlib import Path

from rwp_dist.record.directory import RunDir
from support.cluster import Cluster

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
        """Lines of the job's log."""
        return self._log.read_text().splitlines() if self._log.exists() else []

    def state(self) -> str:
        """What Slurm says of it now."""
        return self.cluster.job(self.id)["JobState"]

    def end(self) -> str:
        """How Slurm says that it ended."""
        return self.cluster.wait(self.id, "COMPLETED", "FAILED", "CANCELLED")

    def step(self) -> int:
        """Updates of the weights so far, as the run directory says."""
        return int((self.run.read_status() or {"step": 0})["step"])

    def saved(self) -> int:
        """The step of the newest checkpoint."""
        names = sorted(path.stem for path in self.run.checkpoints.glob("step-*.pt"))
        return int(names[-1].removeprefix("step-")) if names else 0

    def until_step(self, step: int) -> None:
        """Wait until so many updates are done."""
        self.until(lambda: self.step() >= step, f"step {step}")

    def until_line(self, text: str) -> None:
        """Wait until the log has a line with this."""
        self.until(lambda: any(text in line for line in self.log()), text)

    def until(self, condition, what: str, timeout_s: float = 90) -> None:
        """Wait for something; the job's log tells why it did not come."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not come:\n" + "\n".join(self.log())
            time.sleep(0.1)
