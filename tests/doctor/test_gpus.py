"""GPUs as the driver and torch report them: a script in nvidia-smi's place, a probe by hand."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from support.examining import doctor, findings, look

from rwp_dist.config import load_settings
from rwp_dist.doctor import gpus
from rwp_dist.doctor.machine import Machine
from rwp_dist.doctor.nvidia import Driver
from rwp_dist.doctor.probe import Gpu, Probe
from rwp_dist.doctor.probe import look as look_at_gpus

SMI = """#!/bin/sh
case "$1" in
  *driver_version) printf 'GPU-aaa, 580.65\\nGPU-bbb, 580.65\\n' ;;
  *ecc*) printf 'GPU-aaa, 0\\nGPU-bbb, {errors}\\n' ;;
  *temp*) printf 'GPU-aaa, {heat}\\nGPU-bbb, 41\\n' ;;
  *remapped_rows.failure) echo 'Field is not a valid field to query.'; exit 2 ;;
  *) printf 'GPU-aaa, No\\nGPU-bbb, {pending}\\n' ;;
esac
"""

FIRST = Gpu("NVIDIA A100", "aaa", 40 << 30, 39 << 30)
SECOND = replace(FIRST, uuid="bbb")


def with_program(folder: Path, text: str) -> str:
    """A PATH on which nvidia-smi is this script."""
    path = folder / "bin" / "nvidia-smi"
    path.parent.mkdir()
    path.write_text(text)
    path.chmod(0o755)
    return str(path.parent)


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes a driver that answers so."""
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_GPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)

    def make(errors: int = 0, heat: int = 40, pending: str = "No") -> None:
        text = SMI.format(errors=errors, heat=heat, pending=pending)
        monkeypatch.setenv("PATH", with_program(tmp_path, text), prepend=":")

    return make


def seen_by_torch(*found: Gpu, cuda: str | None = "13.2", **more) -> Machine:
    machine = Machine()
    machine.__dict__["probe"] = Probe(cuda, found, **more)
    return machine


def test_fit_gpus_are_counted_and_named(smi) -> None:
    smi()
    machine = seen_by_torch(FIRST, SECOND)
    [present] = look(gpus.present, machine)
    assert (present.state, present.seen) == ("ok", "2 x NVIDIA A100, driver 580.65")
    assert machine.on_gpus and machine.num_ranks == 2
    assert [f.state for f in look(gpus.compute, machine)] == ["ok"]
    assert [f.state for f in look(gpus.health, machine)] == ["ok"]
    assert look(gpus.in_use, machine) == []


def test_fewer_gpus_than_the_job_has_make_a_sick_node(smi, monkeypatch) -> None:
    smi()
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "4")
    [present] = look(gpus.present, seen_by_torch(FIRST, SECOND))
    assert present.state == "problem" and "the job has 4" in present.seen
    assert "--exclude" in present.cure


def test_gpus_that_torch_does_not_see_are_a_problem_unless_they_are_hidden(
    smi, monkeypatch
) -> None:
    smi()
    [found] = look(gpus.compute, seen_by_torch(FIRST, trouble="driver too old"))
    assert found.state == "problem" and "sees 1 of 2 GPUs (driver too old)" in found.seen
    assert "13.2" in found.cure
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert [f.state for f in look(gpus.compute, seen_by_torch(SECOND))] == ["ok"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert look(gpus.compute, seen_by_torch()) == []


def test_a_torch_without_cuda_beside_gpus_is_a_problem(smi) -> None:
    smi()
    [found] = look(gpus.compute, seen_by_torch(cuda=None))
    assert found.state == "problem" and "without CUDA" in found.seen
    assert "CUDA build" in found.cure


def test_a_probe_that_ends_badly_and_a_wrong_product_are_problems(smi) -> None:
    smi()
    [found] = look(gpus.compute, seen_by_torch(trouble="no answer within 90 s", failed=True))
    assert found.state == "problem" and "no answer" in found.seen
    wrong = replace(SECOND, wrong="computes a wrong product")
    [found] = look(gpus.compute, seen_by_torch(FIRST, wrong))
    assert (found.state, found.name) == ("problem", "compute on GPU 1")


def test_gpus_without_nvidia_smi_are_judged_by_torch_alone(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    [present] = look(gpus.present, seen_by_torch(FIRST))
    assert (present.state, present.seen) == ("ok", "1 x NVIDIA A100, driver unknown")
    assert look(gpus.health, seen_by_torch(FIRST)) == []
    [present] = look(gpus.present, seen_by_torch(trouble="no driver found"))
    assert present.state == "warning" and "no driver found" in present.seen
    [compute] = look(gpus.compute, seen_by_torch(trouble="no answer", failed=True))
    assert compute.state == "problem"


def test_memory_errors_and_heat_name_their_gpu(smi) -> None:
    smi(errors=7, heat=95)
    found = {f.name: f for f in look(gpus.health, seen_by_torch(FIRST, SECOND))}
    errors, heat = found["memory of GPU 1"], found["heat of GPU 0"]
    assert errors.state == "problem" and "7 uncorrected memory errors" in errors.seen
    assert heat.state == "warning" and "95 degrees" in heat.seen
    # Only those that this process may use count.
    assert [f.name for f in look(gpus.health, seen_by_torch(FIRST))] == [
        "heat of GPU 0",
        "memory errors",
    ]


def test_memory_that_waits_for_a_reset_is_a_warning(smi) -> None:
    smi(pending="Yes")
    [found] = look(gpus.health, seen_by_torch(FIRST, SECOND))
    assert (found.name, found.state) == ("memory of GPU 1", "warning")


def test_memory_that_is_in_use_is_a_warning(smi) -> None:
    busy = replace(SECOND, free_bytes=10 << 30)
    [found] = look(gpus.in_use, seen_by_torch(FIRST, busy))
    assert found.name == "GPU 1 is in use" and "32.2 GB of 42.9 GB" in found.seen


def test_a_driver_that_fails_is_quoted(tmp_path: Path) -> None:
    words = "NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver."
    path = with_program(tmp_path, f"#!/bin/sh\necho '{words}'; exit 9\n")
    in_job = findings(doctor("--node", "--json", PATH=path, SLURM_GPUS_ON_NODE="2"))["present"]
    assert in_job["state"] == "problem"
    assert "could not communicate with the NVIDIA driver" in in_job["seen"]
    laptop = findings(doctor("--node", "--json", PATH=path))["present"]
    assert laptop["state"] == "warning" and "on the CPU" in laptop["seen"]


def test_the_probe_is_asked_in_another_process_and_says_the_same(smi) -> None:
    smi()
    assert Probe.ask() == look_at_gpus()
    assert json.loads(json.dumps(asdict(Probe("13.2", (FIRST,)))))["gpus"][0]["uuid"] == "aaa"


def test_cuda_without_a_gpu_is_a_problem_and_auto_is_none(monkeypatch) -> None:
    if shutil.which("nvidia-smi") or torch.cuda.is_available():
        pytest.skip("this machine has a driver")
    assert Driver.ask() == Driver() and Machine().probe is None
    wanted = Machine(load_settings(None, ["run.device=cuda"]))
    [found] = look(gpus.present, wanted)
    assert found.state == "problem" and "run.device to cpu" in found.cure
    assert [f.state for f in look(gpus.present, Machine())] == ["ok"]
