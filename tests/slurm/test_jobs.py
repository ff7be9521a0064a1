"""The job script on a real cluster of two nodes: runs that end well."""

from pathlib import Path

from cluster import NODES, Cluster

from rwp_dist.rundir import RunDir

ROOT = Path(__file__).parents[2]
SCRIPT = str(ROOT / "slurm" / "imagenet_rwp.sh")
# Nodes are shared, so that two jobs can meet there; the test machine has few cores.
HEADER = ("--nodes=2", "--gpus-per-node=1", "--cpus-per-task=1", "--exclusive=user")


def submit(cluster: Cluster, work: Path, name: str, *overrides: str, **env: str) -> int:
    """Train tiny.yaml over both nodes into the run directory ``name``."""
    arguments = (*HEADER, f"--job-name={name}", SCRIPT, "tiny.yaml", *overrides)
    settings = {"CODE": str(ROOT), "RUN_DIR": str(work / name)} | env
    return cluster.sbatch(*arguments, cwd=work, **settings)


def test_two_jobs_train_at_once_on_nodes_whose_names_do_not_resolve(
    cluster: Cluster, work: Path
) -> None:
    jobs = {name: submit(cluster, work, name) for name in ("one", "two")}
    for name, job in jobs.items():
        assert cluster.wait(job, "COMPLETED", "FAILED") == "COMPLETED", name
        run = RunDir(work / name)
        log = (work / f"{name}-{job}.out").read_text()
        assert log.splitlines()[-1] == f"job {job}.0: finished; saved up to step 20."
        (attempt,) = run.read_attempts()
        assert attempt["job"] == f"{job}.0" and attempt["nodes"] == "n[1-2]"
        environment = run.read_environment()
        assert environment is not None and environment["world_size"] == len(NODES)
        assert (run.logs / f"{job}.0" / "rank-1.log").is_file()
