"""The Docker backend, with a program in the engine's place: there is none where tests run.

``test_script.py`` has Docker's own client read the command.
"""

import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from launcher.cli import main
from launcher.job import read_job
from launcher.status import collect
from rwp_dist.record.directory import RunDir

CONFIG = str(Path(__file__).parents[2] / "configs" / "digits.yaml")

SECRET = "planted-" + 24 * "x"  # not in one piece: a submission keeps the code's diff

ENGINE = f"""#!{sys.executable}
import json, os, pathlib, subprocess, sys
known = pathlib.Path(__file__).parent / "container.json"
command, *arguments = sys.argv[1:]
if command == "run":
    labels = pathlib.Path(arguments[arguments.index("--label-file") + 1]).read_text().strip()
    container = dict(ID="c" * 64, State="running", Status="Up 1 second", Labels="a=b," + labels)
    known.write_text(json.dumps(container | dict(arguments=arguments)))
    # What is in the image: here it prints its arguments.
    program = arguments[arguments.index("rwp") + 1 :]
    at = program.index("rwp-launch")
    subprocess.run([*program[:at], "echo", *program[at:]], check=True)
    print(container["ID"])
elif command == "ps":
    print(known.read_text() if known.exists() else "")
elif command == "kill":
    assert arguments == ["--signal", "TERM", "c" * 12], arguments
    known.write_text(json.dumps(json.loads(known.read_text()) | dict(State="exited")))
else:
    sys.exit("Error: no such command")
"""


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "bin" / "docker"
    program.parent.mkdir()
    program.write_text(ENGINE)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return program.parent / "container.json"


def launch(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False)


def test_a_container_is_found_and_stopped_by_its_label(tmp_path: Path, engine: Path) -> None:
    run = tmp_path / "run"
    submit = ("submit", CONFIG, "--backend=docker", "--container=rwp", f"run.dir={run}")
    script = launch(*submit, "--dry-run").stdout
    assert not run.exists()
    done = launch(*submit)
    assert done.stdout == f"docker {'c' * 12}: {run}\n"
    job = read_job(RunDir(run))
    assert job is not None and job.script.read_text() == script
    (found,), _ = collect([run])
    assert found.state == "starting"
    refused = launch(*submit)
    assert refused.exit_code == 2 and "has a job already (docker cccccccccccc" in refused.stderr
    assert launch("cancel", str(run)).exit_code == 0
    (found,), _ = collect([run])
    assert found.state == "cancelled"


def test_what_a_container_prints_is_kept_and_shown(tmp_path: Path, engine: Path) -> None:
    run = tmp_path / "run"
    launch("submit", CONFIG, "--backend=docker", "--container=rwp", f"run.dir={run}")
    printed = f"rwp-launch run --nproc=8 {run}/submitted.yaml\n"
    assert launch("logs", str(run)).stdout == printed
    launch("cancel", str(run))
    launch("resume", str(run))
    launch("cancel", str(run))
    assert launch("logs", "-f", str(run)).stdout == 2 * printed


def test_what_the_engine_refuses_is_said_and_can_be_submitted_again(
    tmp_path: Path, engine: Path
) -> None:
    program = engine.parent / "docker"
    program.write_text(
        "#!/bin/sh\n[ $1 = ps ] || { echo 'docker: no such image.' >&2; exit 125; }\n"
    )
    run = tmp_path / "run"
    submit = ("submit", CONFIG, "--backend=docker", "--container=rwp", f"run.dir={run}")
    done = launch(*submit)
    assert done.exit_code == 1 and done.stderr.startswith("docker refused: no such image; ")
    assert not run.exists()
    program.write_text(ENGINE)
    assert launch(*submit).exit_code == 0


def test_a_container_sees_the_weights_that_a_run_begins_from(tmp_path: Path, engine: Path) -> None:
    submit = ("submit", CONFIG, "--backend=docker", "--container=rwp", f"run.dir={tmp_path}/run")
    weights = tmp_path / "weights.pt"
    weights.touch()
    script = launch(*submit, f"model.init={weights}", "--dry-run").stdout
    assert f"--volume {weights}:{weights}:ro" in script
    script = launch(*submit, "model.init=torchvision:DEFAULT", "--dry-run").stdout
    assert "--volume torchvision" not in script


def test_an_image_is_needed(tmp_path: Path) -> None:
    done = launch("submit", CONFIG, "--backend=docker", f"run.dir={tmp_path}/run")
    assert done.exit_code == 2 and "--container: docker runs an image" in done.stderr


def test_keys_are_in_the_containers_environment_and_in_no_command(
    tmp_path: Path, engine: Path
) -> None:
    """Docker's own --env-file would keep quotes and line ends of Windows, and refuse ``export``."""
    keys = tmp_path / "keys"
    keys.write_bytes(f"export MY_KEY='{SECRET}'\r\n".encode())
    keys.chmod(0o600)
    program = engine.parent / "docker"
    program.write_text(
        program.read_text().replace(
            'if command == "run":',
            'if command == "run":\n    (known.parent / "key").write_text(os.environ["MY_KEY"])',
        )
    )
    run = tmp_path / "run"
    submit = ("submit", CONFIG, "--backend=docker", "--container=rwp", f"--secrets={keys}")
    done = launch(*submit, f"run.dir={run}")
    assert done.exit_code == 0, done.output
    assert (engine.parent / "key").read_text() == SECRET
    arguments = engine.read_text()
    assert '"--env", "MY_KEY"' in arguments and SECRET not in arguments
    assert not [p for p in run.rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()]
    launch("cancel", str(run))


def test_a_wrong_file_of_keys_is_refused_without_its_value(tmp_path: Path, engine: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"A=1\n{SECRET}\n")
    keys.chmod(0o600)
    submit = ("submit", CONFIG, "--backend=docker", "--container=rwp", f"--secrets={keys}")
    done = launch(*submit, f"run.dir={tmp_path}/run")
    assert done.exit_code == 2 and f"--secrets: line 2 of {keys} is no NAME" in done.stderr
    assert SECRET not in done.output
