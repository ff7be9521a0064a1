"""A real Slurm of two nodes on this machine, in a folder of its own, without accounting.

Needs Debian's slurm-wlm and munge (Slurm 22.05 or newer) and, as Slurm does, root.
"""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from rwp_dist.base.parent import end_with_parent
from support.until import until

NODES = ("n1", "n2")
"""These names do not resolve, as on some clusters."""

CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmdSpoolDir={folder}/spool-%n
StateSaveLocation={folder}/state
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
SlurmctldParameters=enable_configless
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
MpiDefault=none
ReturnToService=2
KillWait=20
SlurmdTimeout=300
MinJobAge=3600
GresTypes=gpu
FirstJobId={first_job}
{nodes}
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES
"""

GRES = "Name=gpu File=/dev/null\n"
"""One GPU a node, for Slurm to count; nothing computes on it."""


def missing() -> str:
    """Names of programs or rights that this machine lacks for a cluster; empty if it has all."""
    programs = ("slurmctld", "slurmd", "munged", "sbatch", "scontrol")
    absent = [name for name in programs if _find(name) is None]
    if absent:
        return f"no {', '.join(absent)} (Debian: apt-get install slurm-wlm munge)"
    return "" if os.geteuid() == 0 else "Slurm's daemons want root"


class Cluster:
    """A context: starts the daemons on entry; ends all jobs and the daemons on exit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
        for name in [name for name in self.env if name.startswith("SBATCH_")]:
            del self.env[name]
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Cluster":
        self._write()
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        if len(self._daemons) > 1:
            self._call("scancel", "--user=root")
            with suppress(AssertionError):
                self._until(lambda: not self._call("squeue", "--noheader").stdout, "the jobs' end")
        for process in reversed(self._daemons):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
        for pid in self.processes_of(str(self.folder)):  # steps outlive their slurmd
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    # --- jobs ---

    def sbatch(self, *arguments: str, cwd: Path, **env: str) -> int:
        """Submit a job; returns its number."""
        command = ["sbatch", "--parsable", *arguments]
        done = subprocess.run(command, env=self.env | env, cwd=cwd, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return int(done.stdout.strip().split(";")[0])

    def job(self, job: int | str) -> dict[str, str]:
        """The fields of ``scontrol show job``."""
        text = self.run("scontrol", "-o", "show", "job", str(job))
        return dict(field.split("=", 1) for field in text.split() if "=" in field)

    def wait(self, job: int | str, *states: str, restarts: int = 0, timeout_s: float = 90) -> str:
        """Wait for one of these states, after at least ``restarts`` restarts; returns it."""

        def reached() -> str:
            about = self.job(job)
            there = about["JobState"] in states and int(about["Restarts"]) >= restarts
            return about["JobState"] if there else ""

        return until(reached, lambda: f"{states} of {self.job(job)}", timeout_s, every_s=0.2)

    def start_again(self, job: int) -> int:
        """Start a requeued job, which Slurm would hold for two minutes; returns its restarts."""
        self.wait(job, "PENDING", restarts=1)
        # slurmd takes what starts soon after a requeue for the job that it has just ended, and
        # nothing tells when that is over; 1.5 s were too few on a busy machine.
        time.sleep(3)
        self.run("scontrol", "update", f"jobid={job}", "StartTime=now")
        # One that is over at once may never be seen to run.
        self.wait(job, "RUNNING", "FAILED", "COMPLETED")
        return int(self.job(job)["Restarts"])

    def back_to_service(self, node: str) -> None:
        """Resume a node that was set down; with slurmd alive it may also come back by itself."""

        def idle() -> bool:
            self._call("scontrol", "update", f"node={node}", "state=resume")
            return node in self._idle()

        self._until(idle, node)

    def run(self, *command: str) -> str:
        """Run a command of Slurm's; returns what it prints."""
        done = self._call(*command)
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout

    def _call(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=self.env, capture_output=True, text=True)

    @staticmethod
    def processes_of(text: str) -> list[int]:
        """Living processes with this in their command line or environment."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                known = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if text.encode() in known and state != "Z" and int(folder.name) != os.getpid():
                found.append(int(folder.name))
        return found

    # --- daemons ---

    def _write(self) -> None:
        for name in ("state", "munge", *(f"spool-{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True)
        self.folder.chmod(0o755)
        key = self.folder / "munge" / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        ctld_port, *ports = _free_ports(1 + len(NODES))
        nodes = "\n".join(
            f"NodeName={node} NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 Port={port} "
            "CPUs=8 RealMemory=1000 Gres=gpu:1 State=UNKNOWN"
            for node, port in zip(NODES, ports, strict=True)
        )
        text = CONF.format(
            host=socket.gethostname(),
            folder=self.folder,
            ctld_port=ctld_port,
            nodes=nodes,
            # Ranks meet by it, and there may be another cluster on this machine.
            first_job=random.randrange(1, 1000) * 1000,
        )
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "gres.conf").write_text(GRES)

    def _start(self) -> None:
        munge = self.folder / "munge"
        self._daemon(
            "munged",
            "--foreground",
            "--force",
            f"--socket={munge}/socket",
            f"--key-file={munge}/key",
            f"--pid-file={munge}/pid",
            f"--log-file={munge}/log",
            f"--seed-file={munge}/seed",
        )
        self._until(lambda: (munge / "socket").exists(), "munged")
        self._daemon("slurmctld", "-D", "-i")
        for node in NODES:
            self._daemon("slurmd", "-D", "-N", node)
        self._until(lambda: self._idle() == set(NODES), "the nodes")

    def _daemon(self, name: str, *arguments: str) -> None:
        path = _find(name)
        assert path is not None
        log = (self.folder / f"{name}-{len(self._daemons)}.log").open("wb")
        self._daemons.append(
            subprocess.Popen(
                [path, *arguments],
                env=self.env,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=end_with_parent,  # no daemon is left by tests that are killed
            )
        )

    def _idle(self) -> set[str]:
        states = ("sinfo", "--noheader", "--Node", "--states=idle", "--format=%N")
        return set(self._call(*states).stdout.split())

    def _until(self, condition: Callable[[], object], what: str) -> None:
        def logs() -> str:
            texts = (path.read_text()[-2000:] for path in self.folder.glob("*.log"))
            return "\n".join([what, *texts])

        until(condition, logs, every_s=0.1)


def _find(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


if __name__ == "__main__":  # python tests/support/cluster.py FOLDER: to try things by hand
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with Cluster(Path(sys.argv[1]).resolve()) as cluster:
        print(f"export SLURM_CONF={cluster.env['SLURM_CONF']}", flush=True)
        signal.pause()
