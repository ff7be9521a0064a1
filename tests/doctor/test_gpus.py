"""GPUs as a driver reports them: a script in nvidia-smi's place, asked by a real process."""

import shutil
from pathlib import Path

import pytest
from support.examining import doctor, findings, program

from rwp_dist.doctor import gpus
from rwp_dist.doctor.case import Case
from rwp_dist.doctor.finding import Finding, Step, findings_of

SMI = """
case "$1" in
  --query-gpu=index,uuid*) printf '{gpus}' ;;
  --query-gpu=ecc*) printf '{errors}' ;;
  --query-gpu=temp*) printf '{heat}' ;;
  --query-gpu=remapped_rows.failure) echo 'Field is not a valid field to query.'; exit 2 ;;
  *) printf '{no}' ;;
esac
"""

TWO = (
    "0, GPU-aaa, NVIDIA A100, 40960, 3, 580.65\\n1, GPU-bbb, NVIDIA A100, 40960, {used}, 580.65\\n"
)


@pytest.fixture(autouse=True)
def no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_GPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)


def with_driver(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    used: int = 3,
    errors: str = "0\\n0\\n",
    heat: str = "40\\n41\\n",
) -> Case:
    text = SMI.format(gpus=TWO.format(used=used), errors=errors, heat=heat, no="No\\nNo\\n")
    program(folder / "bin", "nvidia-smi", text)
    monkeypatch.setenv("PATH", f"{folder}/bin", prepend=":")
    return Case()


def of(check) -> list[Finding]:
    return findings_of(Step("gpus", "gpus", check))


def test_gpus_are_counted_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = with_driver(tmp_path, monkeypatch)
    [present] = of(lambda: gpus.present(case))
    assert (present.state, present.seen) == ("ok", "2 x NVIDIA A100, driver 580.65")
    assert case.on_gpus and case.ranks_here == 2
    assert [f.state for f in of(lambda: gpus.health(case))] == ["ok"]
    assert of(lambda: gpus.in_use(case)) == []


def test_fewer_gpus_than_the_job_has_make_a_sick_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = with_driver(tmp_path, monkeypatch)
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "4")
    [present] = of(lambda: gpus.present(case))
    assert present.state == "problem" and "the job has 4" in present.seen
    assert "--exclude" in present.cure


def test_only_visible_gpus_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = with_driver(tmp_path, monkeypatch, errors="5\\n0\\n")
    for told, expected in (("1", [1]), ("GPU-aaa", [0]), ("1,0", [1, 0]), ("", []), ("7,0", [])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", told)
        assert [gpu.index for gpu in case.gpus] == expected, told
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert [f.state for f in of(lambda: gpus.health(case))] == ["ok"]


def test_memory_errors_heat_and_use_name_their_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = with_driver(tmp_path, monkeypatch, used=30000, errors="0\\n7\\n", heat="95\\n41\\n")
    found = {f.name: f for f in of(lambda: gpus.health(case))}
    errors, heat = found["memory of GPU 1"], found["heat of GPU 0"]
    assert errors.state == "problem" and "7 uncorrected memory errors" in errors.seen
    assert heat.state == "warning" and "95 degrees" in heat.seen
    [used] = of(lambda: gpus.in_use(case))
    assert used.name == "GPU 1 is in use" and "31.5 GB of 42.9 GB" in used.seen


def test_a_driver_that_fails_is_a_problem_in_its_own_words(tmp_path: Path) -> None:
    words = "NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver."
    program(tmp_path / "bin", "nvidia-smi", f"echo '{words}'; exit 9")
    path = f"{tmp_path}/bin:{Path(shutil.which('c++') or '').parent}"
    in_job = findings(doctor("--node", "--json", PATH=path, SLURM_GPUS_ON_NODE="2"))["driver"]
    assert in_job["state"] == "problem"
    assert "could not communicate with the NVIDIA driver" in in_job["seen"]
    laptop = findings(doctor("--node", "--json", PATH=path))["driver"]
    assert laptop["state"] == "warning" and "on the CPU" in laptop["seen"]


def test_gpus_that_torch_does_not_see_are_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("torch sees GPUs here")
    case = with_driver(tmp_path, monkeypatch)
    [found] = of(lambda: gpus.compute(case))
    assert found.state == "problem" and "sees 0 of 2 GPUs" in found.seen
    assert "driver" in found.cure


def test_cuda_without_a_gpu_is_a_problem_and_auto_is_none() -> None:
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine has a driver")
    wanted = findings(doctor("--node", "--json", "run.device=cuda"))["present"]
    assert wanted["state"] == "problem" and "run.device to cpu" in wanted["cure"]
    assert findings(doctor("--node", "--json"))["present"]["state"] == "ok"
