"""What is submitted, byte for byte. ``WRITE_GOLDEN=1 pytest tests/launcher`` writes it anew."""

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from launcher.backends.slurm_script import JOB_LINE
from launcher.cli import main

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
CONFIG = str(ROOT / "configs" / "digits.yaml")
PLACES = ("data.train=/data/train", "data.val=/data/val")
BOXED = ("submit", CONFIG, *PLACES)
SUBMIT = (*BOXED, "--venv=/envs/rwp")
SWEEP = ("sweep", CONFIG, *PLACES, "--venv=/envs/rwp", "--backend=slurm", "--dir=/runs/a b")

CASES = {
    "one_node.sh": (*SUBMIT, "variant=m-rwp", "run.dir=/runs/one"),
    "eight_nodes.sh": (
        *(
            *SUBMIT,
            "variant=sgd",
            "run.dir=/runs/eight",
            "--nodes=8",
            "--gpus=4",
            "batch.global=96",
        ),
        *("--time=3:00:00", "--partition=gpu", "--account=lab", "--cpus=48", "--max-attempts=9"),
        *("--option=qos=high", "--option=constraint=a100&nvme"),
    ),
    "container.sh": (
        *(*BOXED, "variant=sam", "run.dir=/runs/boxed", "--container=registry#rwp:1.0"),
        "--container-runtime=apptainer",
    ),
    "array.sh": (
        *(*SWEEP, "--variants=sgd,m-rwp", "--seeds=2", "--gpus=0", "--ranks=2", "--parallel=3"),
        "--grid=optimizer.lr=0.05,0.1",
    ),
    "docker.sh": (
        *(*BOXED, "variant=sam", "run.dir=/runs/boxed", "--backend=docker"),
        *("--container=rwp:1.0", "--option=memory=64g"),
    ),
}


def dry_run(*arguments: str) -> str:
    done = CliRunner().invoke(main, [*arguments, "--dry-run"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("name", CASES)
def test_the_rendered_script_is_the_golden_one(name: str) -> None:
    script = dry_run(*CASES[name])
    head, line, body = script.partition(f"{JOB_LINE}\n")
    head = re.sub("/code/[0-9a-f]{16}", "/code/DIGEST", head)
    if name == "docker.sh":
        head = head.replace(f"{os.getuid()}:{os.getgid()}", "0:0")
    else:
        # The golden file ends where the job script's own body begins, which comes unchanged.
        template = (ROOT / "slurm" / "imagenet_rwp.sh").read_text()
        assert line + body == template[template.index(JOB_LINE) :]
    if os.environ.get("WRITE_GOLDEN"):
        (GOLDEN / name).write_text(head)
    assert head == (GOLDEN / name).read_text()
    shell = "bash" if name != "docker.sh" else "sh"
    subprocess.run([shell, "-n"], input=script, text=True, check=True)


if shutil.which("docker"):  # to read the command, on machines that have it

    def test_docker_itself_understands_the_command() -> None:
        """Without an engine: its client reads all options before it looks for one."""
        script = dry_run(*CASES["docker.sh"]).replace("/runs/boxed/job.labels", "/dev/null")
        done = subprocess.run(
            ["sh", "-s"],
            input=script,
            env=os.environ | {"DOCKER_HOST": "tcp://127.0.0.1:1"},
            capture_output=True,
            text=True,
        )
        assert "127.0.0.1:1" in done.stderr and "unknown" not in done.stderr


SETTINGS = ("CODE", "RUN_DIR", "VENV", "SITE", "SECRETS", "CONTAINER", "CONTAINER_RUNTIME")
SETTINGS += ("CONTAINER_MOUNTS", "RANKS_PER_NODE", "MAX_ATTEMPTS")


@pytest.mark.parametrize("name", ["one_node.sh", "container.sh", "array.sh"])
def test_no_variable_that_happens_to_be_set_changes_a_job(name: str) -> None:
    """The part of the script between header and body, run with and without such variables."""
    settings = dry_run(*CASES[name]).partition("# --- settings ---")[2].partition(JOB_LINE)[0]
    assert "${" not in settings
    shown = "".join(f'echo "{name}=${name}"\n' for name in SETTINGS)
    stray = dict.fromkeys(SETTINGS, "stray")
    first, second = (
        subprocess.run(
            ["bash", "-c", settings + shown],
            env={"SLURM_ARRAY_TASK_ID": "0"} | variables,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for variables in ({}, stray)
    )
    assert first == second and "stray" not in first and "MAX_ATTEMPTS=50" in first


def test_the_dry_run_says_the_command_beside_the_script() -> None:
    done = CliRunner().invoke(main, [*CASES["one_node.sh"], "--dry-run"], catch_exceptions=False)
    first, *warnings = done.stderr.splitlines()
    assert re.fullmatch(r"sbatch --parsable --comment=[0-9a-f]{16}", first)
    assert all(line.startswith("Warning: ") for line in warnings)  # neither data nor venv are here
    assert "--parsable" not in done.stdout


@pytest.mark.parametrize(
    ("limit", "signal"),
    [
        ("8", "B:USR1@120"),
        ("8:20", "B:USR1@125"),
        ("0:30:00", "B:USR1@450"),
        ("0-0:20", "B:USR1@300"),
        ("40", "B:USR1@600"),
        ("2-0", "B:USR1@600"),
        ("UNLIMITED", "B:USR1@600"),
    ],
)
def test_a_short_time_limit_leaves_time_to_train(limit: str, signal: str) -> None:
    script = dry_run(*SUBMIT, "run.dir=/runs/one", f"--time={limit}")
    assert re.findall("#SBATCH --signal=(.*)", script) == [signal]
    own = dry_run(*SUBMIT, "run.dir=/runs/one", f"--time={limit}", "--option=signal=B:USR1@60")
    assert re.findall("#SBATCH --signal=(.*)", own) == ["B:USR1@60"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (
            (*BOXED, "--backend=local", "--time=1", "--site={file}", "--max-attempts=2"),
            "--time, --site, --max-attempts: a run on this machine",
        ),
        ((*BOXED, "--backend=local", "--container=i", "--partition=p"), "--partition, --container"),
        ((*SUBMIT, "--backend=local"), "--venv: a run on this machine"),
        ((*BOXED, "--backend=local", "--option=qos=high"), "--option: a run on this machine"),
        (
            (*SUBMIT, "--backend=docker", "--container=i", "--time=1", "--max-attempts=2"),
            "--time, --venv, --max-attempts: a container of this machine",
        ),
        ((*SUBMIT, "--container=i"), "--venv: a container has a Python of its own"),
        ((*BOXED, "--container-runtime=pyxis"), "--container-runtime: there is no --container"),
        (("sweep", CONFIG, "--dir=/r", "--gpus=2", "--parallel=3"), "--gpus, --parallel"),
        (("sweep", CONFIG, "--dir=/r", "--backend=slurm", "--nproc=2"), "--nproc: on a cluster"),
    ],
)
def test_options_that_a_backend_would_ignore_are_refused(
    arguments: tuple[str, ...], named: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    command = [text.format(file=tmp_path / "file") for text in arguments]
    done = CliRunner().invoke(main, command, catch_exceptions=False)
    assert done.exit_code == 2 and named in done.stderr, done.output
    assert "choose another --backend" in done.stderr and len(done.stderr.splitlines()) == 1


def test_an_environment_and_an_image_beside_the_submission_are_named_from_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / "my.sif").touch()
    assert f"VENV={tmp_path}/.venv " in dry_run(*BOXED, "--venv=.venv")
    boxed = (*BOXED, "--container-runtime=apptainer")
    assert f"CONTAINER={tmp_path}/my.sif " in dry_run(*boxed, "--container=my.sif")
    assert "CONTAINER=rwp-dist " in dry_run(*boxed, "--container=rwp-dist")


def test_a_container_has_the_cache_of_shards_that_are_not_local() -> None:
    remote = ("submit", CONFIG, "data.train=s3://b/train", "data.val=/data/val")
    remote += ("data.cache_dir=/scratch/cache", "run.dir=/runs/one", "--container=i")
    script = dry_run(*remote)
    assert "CONTAINER_MOUNTS=/data/val:/data/val,/scratch/cache:/scratch/cache " in script
    assert "\nsrun mkdir -p /scratch/cache\n" in script  # on each node, before it is mounted
    script = dry_run(*remote, "--backend=docker")
    assert "--volume /scratch/cache:/scratch/cache \\\n" in script
    assert "\nmkdir -p /scratch/cache\n" in script


def test_a_dry_run_makes_nothing(tmp_path: Path) -> None:
    for backend in ("slurm", "local"):
        dry_run("submit", CONFIG, f"run.dir={tmp_path}/run", f"--backend={backend}")
    assert list(tmp_path.iterdir()) == []


def test_runs_with_equal_settings_are_one_task() -> None:
    script = dry_run(*SWEEP, "--variants=sgd,sgd", "--seeds=2", "--grid=optimizer.lr=0.05,0.050")
    assert "#SBATCH --array=0-1\n" in script


ODD = ("40%noise", "it's", 'a "b" c', "x #y", "d$HOME", "模型", "%%", "-n", "a;b&c|d", "*")


@pytest.mark.parametrize("name", ODD)
def test_names_reach_slurm_as_they_are(name: str) -> None:
    """A real sbatch has taken all of these, and its jobs have written where they should."""
    own = (f"run.dir={json.dumps(f'/runs/{name}/a')}", f"run.name={json.dumps(name)}")
    script = dry_run(*SUBMIT, "variant=sgd", *own)
    lines = [line for line in script.splitlines() if line.startswith("#SBATCH ")]
    options = dict(
        word.removeprefix("--").split("=", 1)
        for line in lines
        if "=" in line
        for word in shlex.split(line.removeprefix("#SBATCH "))
    )
    output = options["output"]
    expanded = re.sub("%(.)", lambda match: "%" if match[1] == "%" else "7", output)
    assert expanded == f"/runs/{name}/a/logs/slurm-7.out"
    assert options["job-name"] == name
    assert options["chdir"].startswith(f"/runs/{name}/a/code/")
    settings = script[script.index("# --- settings") : script.index(JOB_LINE)]
    shown = subprocess.run(
        ["bash", "-c", f'SLURM_SUBMIT_DIR=x\n{settings}\nprintf "%s\\n" "$RUN_DIR" "$@"'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout == f"/runs/{name}/a\n/runs/{name}/a/submitted.yaml\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*SUBMIT, "run.dir=/runs/b\\s"), "sbatch takes no such name"),
        ((*SUBMIT, r'run.dir="/runs/b\ns"'), "has a line break, which sbatch takes"),
        ((*BOXED, "--container=i", "run.dir=/runs/a,b"), "--container-mounts would be cut there"),
        (
            (*BOXED, "--container=i", "--backend=docker", "run.dir=/runs/a:b"),
            "docker's --volume would be cut there",
        ),
    ],
)
def test_a_name_that_a_backend_would_change_is_refused(
    arguments: tuple[str, ...], said: str
) -> None:
    done = CliRunner().invoke(main, [*arguments, "--dry-run"], catch_exceptions=False)
    assert done.exit_code == 2
    assert said in done.stderr and re.search(r"; (use|choose) a \w+ without", done.stderr)
