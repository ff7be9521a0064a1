"""slurm/imagenet_rwp.sh without a cluster."""

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rwp_dist.process import launchers
from rwp_dist.record.directory import RunDir

SCRIPT = Path(__file__).parents[2] / "slurm" / "imagenet_rwp.sh"


def test_shellcheck_finds_nothing() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("no shellcheck (Debian: apt-get install shellcheck)")
    done = subprocess.run(["shellcheck", SCRIPT], capture_output=True, text=True)
    assert done.stdout == "" and done.returncode == 0


def test_the_script_has_the_three_parts_that_submit_renders() -> None:
    header, settings, job = re.split(
        r"^# --- (?:settings|job) ---\n", SCRIPT.read_text(), flags=re.M
    )
    assert header.startswith("#!/bin/bash\n")
    for line in settings.splitlines():
        name, _, value = line.partition("=")
        assert not line or value.startswith(f'"${{{name}:-'), line
    assert "#SBATCH" not in job


# --- containers: with stand-ins for the programs of a cluster, of which none is needed for them ---

SETTINGS = """
data: {train: shards/train, val: shards/val}
model: {name: small_cnn, num_classes: 4}
batch: {global: 8, per_rank: 8}
optimizer: {lr: 0.1}
schedule: {epochs: 1}
run: {dir: run, name: mine}
"""

STUBS = {
    "scontrol": "echo node-a",
    "getent": "exit 0",
    "srun": 'echo "srun $*" >>"$CALLS"\nwhile [[ $1 == --* ]]; do shift; done; exec "$@"',
    "apptainer": 'echo "apptainer $*" >>"$CALLS"\n'
    'while [[ $1 != *.sif ]]; do shift; done; exec "${@:2}"',
    "torchrun": 'echo "torchrun $*" >>"$CALLS"; echo \'{"state": "finished"}\' >run/status.json',
    "python": 'case "$*" in *attempt\\ doctor*) echo node-a: fit ;; '
    '*launcher.agent*) >"$3/node-$4.log"; exec torchrun "${@:5}" ;; '
    f'*) exec {sys.executable} "$@" ;; esac',
}


def run_in(
    tmp_path: Path, *, stubs: dict[str, str] | None = None, **settings: str
) -> tuple[list[str], str]:
    """What the script calls, with absolute paths made short, and what it says last."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, body in (STUBS | (stubs or {})).items():
        (programs / name).write_text(f"#!/bin/bash\n{body}\n")
        (programs / name).chmod(0o755)
    (tmp_path / "my.yaml").write_text(SETTINGS)
    job = {"SLURM_JOB_ID": "17", "SLURM_NNODES": "1", "SLURM_JOB_NODELIST": "node-a"}
    job |= {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_NODEID": "0", "SLURMD_NODENAME": "node-a"}
    path = {"PATH": f"{programs}:/usr/bin:/bin", "CALLS": str(tmp_path / "calls")}
    path |= {"PYTHONPATH": str(SCRIPT.parents[1])}
    command = ["bash", str(SCRIPT), "my.yaml"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=job | path | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    calls = (tmp_path / "calls").read_text() if (tmp_path / "calls").exists() else ""
    return calls.replace(str(tmp_path), "/project").splitlines(), (
        done.stdout.splitlines() or [""]
    )[-1]


def test_without_a_container_ranks_run_as_they_are(tmp_path: Path) -> None:
    calls, last = run_in(tmp_path)
    assert last == "job 17.0: finished; saved up to step 0."
    assert not any("container" in call or "apptainer" in call for call in calls)
    (torchrun,) = (call for call in calls if call.startswith("torchrun"))
    assert "--local-addr=node-a --rdzv-conf=is_host=1 --nnodes=1 --nproc-per-node=1" in torchrun
    assert "--rdzv-backend=c10d --rdzv-id=17.0 --rdzv-endpoint=node-a:10017 " in torchrun
    assert torchrun.endswith("-m rwp_dist train my.yaml")


def test_pyxis_gets_the_image_and_the_folders(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    calls, last = run_in(
        tmp_path, CONTAINER="me/image:1", CONTAINER_MOUNTS="/data:/data", RUN_DIR=str(run_dir)
    )
    assert last == "job 17.0: finished; saved up to step 0."
    steps = [call for call in calls if call.startswith("srun")]
    assert len(steps) == 5  # begin, doctor, nodes, ranks, end
    mounts = "/project:/project,/project/run:/project/run,/data:/data"
    options = (
        f"--container-image=me/image:1 --container-mounts={mounts} --container-workdir=/project"
    )
    assert all(options in step for step in steps)


def test_apptainer_gets_the_image_and_the_folders(tmp_path: Path) -> None:
    calls, last = run_in(tmp_path, CONTAINER="my.sif", CONTAINER_RUNTIME="apptainer")
    assert last == "job 17.0: finished; saved up to step 0."
    inside = [call for call in calls if call.startswith("apptainer")]
    assert len(inside) == 5
    start = "apptainer exec --nv --bind /project:/project --pwd /project my.sif "
    assert all(call.startswith(start) for call in inside)
    assert any(call.startswith("torchrun") for call in calls)


def test_an_unknown_container_runtime_is_refused(tmp_path: Path) -> None:
    calls, last = run_in(tmp_path, CONTAINER="my.sif", CONTAINER_RUNTIME="docker")
    assert last == "job 17.0: CONTAINER_RUNTIME: docker is neither pyxis nor apptainer."
    assert calls == []


# --- the end of an attempt ---

CRASH = {"torchrun": "exit 1"}
AWAY = "Unable to contact slurm controller (connect failure)"


def test_requeueing_waits_for_a_slurmctld_that_is_away(tmp_path: Path) -> None:
    scontrol = 'echo "scontrol $*" >>"$CALLS"\n[ "$1" != requeue ] || [ -e again ] || '
    scontrol += f"{{ touch again; echo 'slurm_requeue error: {AWAY}'; exit 1; }}\necho node-a"
    calls, last = run_in(tmp_path, stubs=CRASH | {"scontrol": scontrol})
    assert calls.count("scontrol requeue Incomplete 17") == 2
    assert last == f"job 17.0: it cannot be requeued yet ({AWAY}); it is tried again for 5 minutes."


def test_a_job_cancelled_after_its_ranks_have_ended_is_not_requeued(tmp_path: Path) -> None:
    site = tmp_path / "site.sh"
    site.write_text("echo $$ >pid\n")
    python = 'case "$*" in *" end "*) kill -TERM "$(cat pid)" ;; esac; ' + STUBS["python"]
    scontrol = 'echo "scontrol $*" >>"$CALLS"; [ "$1" != show ] || echo node-a'
    stubs = CRASH | {"python": python, "scontrol": scontrol}
    calls, last = run_in(tmp_path, stubs=stubs, SITE=str(site))
    assert last == "job 17.0: terminated; saved up to step 0."
    assert not any("requeue" in call for call in calls)


def test_what_a_cancelled_job_has_saved_is_said_without_a_further_step(tmp_path: Path) -> None:
    """Slurm starts none for it, and with pyxis Python is only in one."""
    (tmp_path / "site.sh").write_text("echo $$ >pid\n")
    torchrun = "mkdir -p run/checkpoints; touch run/checkpoints/step-000000{08,30}.pt; "
    torchrun += 'kill -TERM "$(cat pid)"; exit 1'
    srun = "[ ! -e run/checkpoints ] || exit 1; " + STUBS["srun"]
    stubs = {"torchrun": torchrun, "srun": srun}
    _, last = run_in(tmp_path, stubs=stubs, SITE=str(tmp_path / "site.sh"), CONTAINER="image")
    assert last == "job 17.0: terminated; saved up to step 30."
    (attempt,) = RunDir(tmp_path / "run").read_attempts()
    assert (attempt["job"], attempt["state"]) == ("17.0", "lost")


# --- before the ranks ---


def test_profiles_may_use_variables_that_are_not_set(tmp_path: Path) -> None:
    site, secrets = tmp_path / "site.sh", tmp_path / "secrets"
    site.write_text('HERE="$NOT_SET_BY_ANYBODY"\n')
    secrets.write_text("KEY=1\n")
    secrets.chmod(0o400)
    _, last = run_in(tmp_path, SITE=str(site), SECRETS=str(secrets))
    assert last == "job 17.0: finished; saved up to step 0."


def test_a_profile_or_environment_that_is_named_must_be_there(tmp_path: Path) -> None:
    for name, missing in (("SITE", "gone.sh"), ("VENV", "gone/bin/activate")):
        (tmp_path / name).mkdir()
        calls, last = run_in(tmp_path / name, **{name: str(tmp_path / missing.split("/")[0])})
        assert last == (
            f"job 17.0: {name}: there is no {tmp_path / missing}; correct it, or leave it out."
        )
        assert calls == []


def test_only_wrong_settings_end_the_job_before_the_ranks(tmp_path: Path) -> None:
    scontrol = 'echo "scontrol $*" >>"$CALLS"; [ "$1" != show ] || echo node-a'
    for code in (1, 2):
        (tmp_path / str(code)).mkdir()
        stubs = {"scontrol": scontrol, "python": f'echo "exit code {code}" >&2; exit {code}'}
        calls, _ = run_in(tmp_path / str(code), stubs=stubs, MAX_ATTEMPTS="2")
        assert ("scontrol requeue Incomplete 17" in calls) == (code == 1)


def test_a_node_that_says_nothing_is_not_fit(tmp_path: Path) -> None:
    python = STUBS["python"].replace("echo node-a: fit", "true")
    scontrol = 'echo "scontrol $*" >>"$CALLS"; [ "$1" != show ] || echo node-a'
    calls, last = run_in(tmp_path, stubs={"python": python, "scontrol": scontrol})
    assert "Sick: node-a" in last
    assert not any(call.startswith("torchrun") for call in calls)
    assert "scontrol update jobid=17 ExcNodeList=node-a" in calls


def test_the_doctor_gets_the_runs_own_settings(tmp_path: Path) -> None:
    python = 'echo "python $*" >>"$CALLS"; ' + STUBS["python"]
    calls, _ = run_in(tmp_path, stubs={"python": python}, RUN_DIR=str(tmp_path / "run"))
    assert "python -m launcher.attempt doctor my.yaml run.dir=/project/run" in calls


RANK = """
import os, signal, time
signal.signal(signal.SIGUSR1, lambda *_: open("end", "w").write(f"{time.time()}") and os._exit(1))
os.kill(int(open("pid").read()), signal.SIGUSR1)
time.sleep(20)
"""


def test_a_short_time_limit_is_not_lost_to_the_signal(tmp_path: Path) -> None:
    (tmp_path / "rank.py").write_text(RANK)
    (tmp_path / "site.sh").write_text("echo $$ >pid\n")
    now = int(time.time())
    limit = {"SLURM_JOB_START_TIME": str(now), "SLURM_JOB_END_TIME": str(now + 8)}
    stubs = CRASH | {"torchrun": f"exec {sys.executable} rank.py"}
    run_in(tmp_path, stubs=stubs, SITE=str(tmp_path / "site.sh"), **limit)
    assert float((tmp_path / "end").read_text()) >= now + 6


# --- places: what clusters and shells may be like ---

ASKED = 'echo "cores ${SRUN_CPUS_PER_TASK:-} ${SLURM_CPU_BIND:-}" >>"$CALLS"; ' + STUBS["srun"]


@pytest.mark.parametrize(
    ("told", "asked"),
    [
        ({"SLURM_JOB_CPUS_PER_NODE": "128", "SLURM_CPUS_ON_NODE": "128"}, "128 "),
        ({"SLURM_JOB_CPUS_PER_NODE": "64(x4)", "SLURM_CPUS_ON_NODE": "64"}, "64 "),
        ({"SLURM_JOB_CPUS_PER_NODE": "128,64(x3)", "SLURM_CPUS_ON_NODE": "128"}, " none"),
        ({"SLURM_JOB_CPUS_PER_NODE": "64(x3),128", "SLURM_CPUS_ON_NODE": "64"}, " none"),
        ({"SLURM_JOB_CPUS_PER_NODE": "128,64", "SLURM_CPUS_PER_TASK": "32"}, "32 "),
    ],
)
def test_no_node_is_asked_for_cores_that_it_has_not(
    told: dict[str, str], asked: str, tmp_path: Path
) -> None:
    calls, last = run_in(tmp_path, stubs={"srun": ASKED}, **told)
    assert last == "job 17.0: finished; saved up to step 0."
    assert {call for call in calls if call.startswith("cores")} == {f"cores {asked}"}


def test_what_a_shell_had_left_over_does_not_reach_the_ranks(tmp_path: Path) -> None:
    left = {
        "RANK": "1",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "x",
        "PET_NNODES": "3",
    }
    left |= {"TORCHELASTIC_RUN_ID": "x"} | dict.fromkeys(launchers.OF_TORCHRUN, "1")
    left |= {name if name[-1] != "_" else f"{name}RANK": "1" for name in launchers.OF_MPI}
    told = 'printenv | cut -d= -f1 >"$CALLS.env"; ' + STUBS["torchrun"]
    _, last = run_in(tmp_path, stubs={"torchrun": told}, **left)
    assert last == "job 17.0: finished; saved up to step 0."
    names = set((tmp_path / "calls.env").read_text().split())
    assert "RWP_ATTEMPT" in names and not names & set(left)


def test_an_address_of_ipv6_is_in_brackets_where_a_port_follows(tmp_path: Path) -> None:
    scontrol = (
        'case "$*" in *hostnames*) echo node-a ;; *) echo "NodeName=a NodeAddr=fd00::1" ;; esac'
    )
    calls, _ = run_in(tmp_path, stubs={"getent": "exit 2", "scontrol": scontrol})
    (torchrun,) = (call for call in calls if call.startswith("torchrun"))
    assert "--local-addr=fd00::1 " in torchrun and "--rdzv-endpoint=[fd00::1]:10017 " in torchrun


ABSENT = 'echo "scontrol: command not found" >&2; exit 127'


def test_a_node_without_scontrol_trains(tmp_path: Path) -> None:
    srun = 'if [[ "$*" == *printenv* ]]; then echo "0: node-a"; exit; fi; ' + STUBS["srun"]
    stubs = {"scontrol": ABSENT, "srun": srun, "getent": "exit 2"}
    calls, last = run_in(tmp_path, stubs=stubs)
    assert last == "job 17.0: finished; saved up to step 0."
    assert any("--rdzv-endpoint=node-a:10017 " in call for call in calls)


@pytest.mark.parametrize(
    ("scontrol", "why"),
    [
        (ABSENT, "command not found"),
        ("echo 'scontrol: Befehl nicht gefunden' >&2; exit 127", "Befehl nicht gefunden"),
        ("exit 126", "exit code 126 of scontrol"),
        (
            "printf 'scontrol: %s\\n' 'error: no DNS' 'fatal: Could not find it' >&2; exit 1",
            "Could not find it",
        ),
        ("echo 'slurm_requeue error: Invalid user id' >&2; exit 1", "Invalid user id"),
        (
            "echo 'Requested operation is presently disabled for job 17' >&2; exit 1",
            "Requested operation is presently disabled for job 17",
        ),
        (
            "echo 'slurm_requeue error: Access/permission denied' >&2; exit 1",
            "Access/permission denied",
        ),
    ],
)
def test_a_cluster_that_does_not_requeue_is_not_asked_again_and_again(
    scontrol: str, why: str, tmp_path: Path
) -> None:
    body = f'case $1 in requeue) echo requeue >>"$CALLS"; {scontrol} ;; *) echo node-a ;; esac'
    run = tmp_path / "it's mine"
    calls, last = run_in(tmp_path, stubs=CRASH | {"scontrol": body}, RUN_DIR=str(run))
    assert calls.count("requeue") == 1
    assert last == (
        f"job 17.0: it cannot be requeued ({why}); submit it again, as with rwp-launch resume "
        f"{tmp_path}/it\\'s\\ mine: it goes on from its newest checkpoint."
    )


def test_keys_reach_the_ranks_as_they_are_meant(tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    secrets.write_bytes(b"\xef\xbb\xbf# mine\r\nexport WANDB_API_KEY='a#b $HOME'\r\n")
    secrets.chmod(0o600)
    told = 'printf %s "$WANDB_API_KEY" >"$CALLS.key"; ' + STUBS["torchrun"]
    _, last = run_in(tmp_path, stubs={"torchrun": told}, SECRETS=str(secrets))
    assert last == "job 17.0: finished; saved up to step 0."
    assert (tmp_path / "calls.key").read_bytes() == b"a#b $HOME"


def test_a_profile_with_line_ends_of_windows_is_refused(tmp_path: Path) -> None:
    site = tmp_path / "site.sh"
    site.write_bytes(b"export NCCL_DEBUG=WARN\r\n")
    calls, last = run_in(tmp_path, SITE=str(site))
    assert calls == [] and "has line ends of Windows; convert it, as with sed -i" in last
