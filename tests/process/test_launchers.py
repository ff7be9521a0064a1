"""Which variables of launchers are meant for a process, and which are left over from another."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.until import HANG_S

from rwp_dist.base.errors import ConfigError
from rwp_dist.process import launchers, torchrun

ROOT = Path(__file__).parents[2]
KINDS = ("RANK", "WORLD_SIZE", "LOCAL_", "MASTER_", "SLURM_", "TORCHELASTIC_", *launchers.OF_MPI)
SRUN = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_NTASKS": "8"}
SHELL = SRUN | {"SLURM_STEP_ID": "4294967290"}  # of salloc
PMI = {"PMI_RANK": "0", "PMI_SIZE": "3"}
TASKS = {"SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "4"}
TASKS |= {"SLURM_STEP_TASKS_PER_NODE": "2(x2),3"}
OPERATOR = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "job-0", "MASTER_PORT": "23456"}


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(KINDS):
            monkeypatch.delenv(name)


def told(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)


# --- tasks of srun and mpirun ---


@pytest.mark.parametrize(
    ("values", "part"),
    [
        (SRUN, (1, 8)),
        (SRUN | {"SLURM_STEP_NUM_TASKS": "2"}, (1, 2)),  # of a job that has more
        (SRUN | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),
        (SHELL, None),
        (SRUN | {"SLURM_STEP_ID": "4294967291"}, None),  # the batch script
        ({name: SRUN[name] for name in SRUN if name != "SLURM_STEP_ID"}, None),
        (SRUN | {"SLURM_PTY_PORT": "4"}, (1, 8)),  # started by srun from a shell of srun's
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, (1, 2)),
        (PMI, (0, 3)),
        ({"PMI_RANK": "0", "PMI_SIZE": "1"}, None),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, None),
        ({"JSM_NAMESPACE_RANK": "1", "JSM_NAMESPACE_SIZE": "4"}, (1, 4)),
        (SHELL | PMI, None),  # Slurm sets them there
        (SHELL | PMI | {"MPI_LOCALRANKID": "0"}, (0, 3)),  # mpirun in salloc's shell
        ({"SLURM_JOB_ID": "7"} | PMI, (0, 3)),  # mpirun in the batch script
        ({}, None),
    ],
)
def test_only_what_srun_or_mpirun_has_started_is_a_task_of_several(
    values: dict[str, str], part: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    told(monkeypatch, values)
    task = launchers.task()
    assert (task and (task.number, task.count)) == part
    if task is None:
        launchers.check_tasks()
    else:
        with pytest.raises(
            ConfigError, match=f"^{task.variable}: .*torchrun.*unset {task.variable}"
        ):
            launchers.check_tasks()
        told(monkeypatch, OPERATOR)  # a script may have made ranks of its tasks
        launchers.check_tasks()


def test_a_shell_of_srun_is_no_task(monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, SRUN | PMI | {"SLURM_PTY_PORT": "4"})
    monkeypatch.setattr(launchers, "_has_terminal", lambda: True)
    assert launchers.task() is None


# --- ranks ---


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"WORLD_SIZE": "2"},
        {"RANK": "1"},
        {"RANK": "1", "WORLD_SIZE": ""},
        {"RANK": "x", "WORLD_SIZE": "2"},
        {"RANK": "2", "WORLD_SIZE": "2"},
        {"RANK": "-1", "WORLD_SIZE": "2"},
        {"LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "4"},
    ],
)
def test_variables_that_make_no_rank_leave_a_process_alone(
    values: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told(monkeypatch, values | {"MASTER_ADDR": "n1", "MASTER_PORT": "1", "LOCAL_RANK": "3"})
    assert (torchrun.rank(), torchrun.world_size(), torchrun.by_torchrun()) == (0, 1, False)
    assert (torchrun.local_rank(), torchrun.ranks_here()) == (0, 1)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    launchers.adopt_variables()
    assert "RANK" not in os.environ and "WORLD_SIZE" not in os.environ
    assert os.environ["LOCAL_RANK"] == "0"  # DeepSpeed asks for it


@pytest.mark.parametrize("values", [{"WORLD_SIZE": "2"}, {"RANK": "1"}, {"LOCAL_RANK": "3"}])
def test_a_single_variable_is_said_to_be_left_over(
    values: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told(monkeypatch, values)
    launchers.check_ranks()
    (text,) = launchers.leftovers()
    ((name, value),) = values.items()
    assert text.startswith(f"{name}={value} is left over")


@pytest.mark.parametrize("rank", ["x", "2", "-1"])
def test_variables_that_do_not_fit_are_refused(rank: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, OPERATOR | {"RANK": rank, "WORLD_SIZE": "2"})
    with pytest.raises(ConfigError, match="is no rank; unset RANK WORLD_SIZE"):
        launchers.check_ranks()


@pytest.mark.parametrize(
    ("more", "local", "here"),
    [
        ({}, 0, 1),  # one rank a pod
        ({"MASTER_ADDR": "127.0.0.1"}, 1, 4),
        ({"MASTER_ADDR": "[::1]"}, 1, 4),
        ({"MASTER_ADDR": "localhost"}, 1, 4),
        ({"SLURM_LOCALID": "0"}, 0, 1),
        (TASKS | {"SLURM_NODEID": "0"}, 1, 2),
        (TASKS | {"SLURM_NODEID": "1", "LOCAL_RANK": "0"}, 0, 2),
        (TASKS | {"SLURM_NODEID": "2"}, 1, 3),
        (TASKS | {"SLURM_NODEID": "3"}, 1, 1),
        # a step of torchrun's agents or of mpirun's helpers
        (TASKS | {"SLURM_STEP_NUM_TASKS": "2", "SLURM_NODEID": "0"}, 1, 1),
        (TASKS | {"MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "3"}, 0, 3),
        ({"MV2_COMM_WORLD_LOCAL_RANK": "1", "MV2_COMM_WORLD_LOCAL_SIZE": "2"}, 1, 2),
        ({"JSM_NAMESPACE_LOCAL_RANK": "1", "JSM_NAMESPACE_LOCAL_SIZE": "2"}, 1, 2),
        ({"OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, 1, 2),
        ({"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "3", "SLURM_LOCALID": "2"}, 0, 3),
    ],
)
def test_the_number_on_the_node_is_found_where_it_is_not_said(
    more: dict[str, str], local: int, here: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told(monkeypatch, OPERATOR | more)
    assert (torchrun.local_rank(), torchrun.ranks_here()) == (local, here)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    launchers.adopt_variables()
    assert os.environ["LOCAL_RANK"] == str(local)
    assert "OMPI_COMM_WORLD_LOCAL_RANK" not in os.environ  # DeepSpeed would want both to be equal
    assert (torchrun.rank(), torchrun.world_size()) == (1, 4)


def test_addresses_of_ipv6_are_in_brackets_for_people_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told(monkeypatch, OPERATOR | {"MASTER_ADDR": "[fd00::1]"})
    assert torchrun.master() == ("fd00::1", 23456)
    assert torchrun.endpoint("fd00::1", 23456) == "[fd00::1]:23456"
    assert torchrun.endpoint("n1", 23456) == "n1:23456"


# --- commands ---


def rwp(*command: str, **values: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command], env=os.environ | values, capture_output=True, text=True,
        cwd=ROOT, timeout=HANG_S,
    )  # fmt: skip


@pytest.mark.parametrize("command", [("rwp_dist", "train"), ("launcher", "run")])
def test_tasks_of_srun_are_told_how_to_start(command: tuple[str, str], tmp_path: Path) -> None:
    done = rwp(*command, "configs/digits.yaml", f"run.dir={tmp_path}/run", **SRUN)
    assert done.returncode == 2 and not (tmp_path / "run").exists()
    assert done.stderr.startswith("SLURM_NTASKS: this is task 1 of 8 that srun has started")


def test_what_is_left_over_is_said_by_a_command_of_ranks_and_not_by_others() -> None:
    done = rwp("rwp_dist", "train", "nowhere.yaml", WORLD_SIZE="2")
    assert done.returncode == 2
    assert done.stderr.startswith("WORLD_SIZE=2 is left over (RANK is not set) and not used.\n")
    done = rwp("rwp_dist", "settings", "nowhere.yaml", WORLD_SIZE="x", RANK="y")
    assert done.returncode == 2 and "left over" not in done.stderr and "RANK" not in done.stderr


def test_a_launcher_is_no_rank_and_neither_are_torchruns_arguments_kept() -> None:
    """PET_NNODES, as Kubernetes' training operator sets it, is torchrun's --nnodes."""
    code = "import os, launcher.__main__ as m, sys; sys.argv[1:] = ['status', '/nowhere']\n"
    code += "try: m.main()\nfinally: print(*sorted(os.environ))"
    left = OPERATOR | {"PET_NNODES": "4", "TORCHELASTIC_RUN_ID": "1", "LOCAL_RANK": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | left, capture_output=True, text=True
    )
    names = set(done.stdout.splitlines()[-1].split())
    assert "PATH" in names and not names & set(left), done.stderr
