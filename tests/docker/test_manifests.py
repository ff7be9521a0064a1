"""compose.yaml and kubernetes.yaml: valid by their schemas, and of one mind with the settings."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from rwp_dist.config import load_settings, split_batch

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker" / "compose.yaml"
KUBERNETES = ROOT / "docker" / "kubernetes.yaml"


@pytest.fixture
def train():
    return yaml.safe_load(COMPOSE.read_text())["services"]["train"]


def test_compose_is_valid():
    tool = Path(sys.executable).with_name("check-jsonschema")
    command = [tool, "--builtin-schema", "vendor.compose-spec", COMPOSE]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_compose_starts_what_the_launcher_takes(train):
    settings = {"RWP_CONFIG": "configs/imagenet_resnet50.yaml", "RWP_SETTINGS": "variant=m-arwp"}
    command = re.sub(
        r"\$\{(\w+):[?-]([^}]*)\}", lambda m: settings.get(m[1], m[2]), train["command"]
    )
    program, verb, config, option, nproc, again, _times, *overrides = shlex.split(command)
    assert (program, verb, option, again) == ("rwp-launch", "run", "--nproc", "--attempts")
    split_batch(load_settings(ROOT / config, overrides), int(nproc))
    assert overrides == ["data.cache_dir=/cache", "variant=m-arwp"]


def test_compose_leaves_it_to_the_launcher_what_is_tried_again(train):
    """Docker would repeat wrong settings, too."""
    assert train["restart"] == "no" and "--attempts ${RWP_ATTEMPTS:-4} " in train["command"]


def test_compose_gives_a_gpu_node_what_it_needs(train):
    (device,) = train["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert train["ipc"] == "host" and train["ulimits"]["memlock"] == -1
    assert train["stop_grace_period"] == "10m"  # what the launcher waits for a checkpoint


def test_compose_has_keys_in_files_alone(train):
    assert train["secrets"] == ["wandb_netrc", "aws_credentials"]
    assert train["environment"] == {
        "NETRC": "/run/secrets/wandb_netrc",
        "AWS_SHARED_CREDENTIALS_FILE": "/run/secrets/aws_credentials",
    }
    text = COMPOSE.read_text() + KUBERNETES.read_text()
    assert not re.search("API_KEY|SECRET_ACCESS_KEY", text)


def test_compose_needs_no_file_with_keys():
    secrets = yaml.safe_load(COMPOSE.read_text())["secrets"]
    assert [each["file"].partition(":-")[2] for each in secrets.values()] == ["/dev/null}"] * 2


def test_wandb_finds_a_key_in_such_a_file(tmp_path):
    netrc = tmp_path / "secret"
    netrc.write_text(f"machine api.wandb.ai\n  login user\n  password {'a1' * 20}\n")
    netrc.chmod(0o400)
    done = subprocess.run(
        [sys.executable, "-c", "import wandb; print(wandb.login(prompt=False, verify=False))"],
        env={"PATH": "", "HOME": str(tmp_path), "NETRC": str(netrc)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "True", done.stderr


@pytest.mark.parametrize(("content", "key"), [("aws_access_key_id=a\n", "a"), (None, "None")])
def test_s3_finds_keys_in_such_a_file_and_does_without(tmp_path, content, key):
    path = tmp_path / "secret" if content else Path("/dev/null")
    if content:
        path.write_text(f"[default]\n{content}aws_secret_access_key=b\n")
    found = "botocore.session.Session().get_credentials()"
    code = f"import botocore.session; print(getattr({found}, 'access_key', None))"
    environment = {"AWS_SHARED_CREDENTIALS_FILE": str(path), "AWS_EC2_METADATA_DISABLED": "true"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": "", "HOME": str(tmp_path)} | environment,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == key, done.stderr


@pytest.fixture
def objects():
    return {each["kind"]: each for each in yaml.safe_load_all(KUBERNETES.read_text())}


@pytest.mark.parametrize("version", ["1.29", "1.37"])
def test_kubernetes_objects_are_valid(objects, version):
    assert set(objects) == {"Service", "PersistentVolumeClaim", "Job"}
    for each in objects.values():
        kubernetes_validate.validate(each, version, strict=True)


def test_kubernetes_starts_as_many_ranks_as_it_has_gpus_and_they_share_the_batch(objects):
    job = objects["Job"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    args = container["args"]
    options = dict(a.removeprefix("--").split("=", 1) for a in args if a.startswith("--"))
    nodes, ranks = int(options["nnodes"]), int(options["nproc-per-node"])
    assert job["completions"] == job["parallelism"] == nodes
    assert ranks == int(container["resources"]["limits"]["nvidia.com/gpu"])
    service = objects["Service"]
    name = service["metadata"]["name"]
    assert pod["subdomain"] == name and options["master-addr"] == f"{name}-0.{name}"
    assert service["spec"]["ports"][0]["port"] == int(options["master-port"])
    assert service["spec"]["selector"] == job["template"]["metadata"]["labels"]
    config, *overrides = args[args.index("train") + 1 :]
    split_batch(load_settings(ROOT / config, overrides), nodes * ranks)
    (first,) = pod["initContainers"]
    program, command, *same = first["args"]
    assert (program, command) == ("rwp-dist", "settings") and first["image"] == container["image"]
    assert same == [config, overrides[0], f"--ranks={nodes * ranks}"]
    rule = job["podFailurePolicy"]["rules"][0]["onExitCodes"]
    assert (rule["containerName"], rule["values"]) == (first["name"], [2])


def test_kubernetes_mounts_every_volume_and_runs_as_nobody_special(objects):
    pod = objects["Job"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert {v["name"] for v in pod["volumes"]} == {m["name"] for m in container["volumeMounts"]}
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["livenessProbe"]["exec"]["command"] == [
        "python",
        "-m",
        "rwp_dist.process.heartbeat",
    ]
