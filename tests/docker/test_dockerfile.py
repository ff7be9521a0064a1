"""The image's recipe: linted, pinned, without secrets, for any user."""

import json
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from rwp_dist import __version__

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "docker" / "Dockerfile"
SECRET = re.compile(r"key|token|secret|password|passwd|credential|netrc", re.IGNORECASE)


def instructions(path=DOCKERFILE):
    """[(keyword, rest)], lines joined, comments left out."""
    lines = (line for line in path.read_text().splitlines() if not line.lstrip().startswith("#"))
    text = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def values(keyword):
    return [rest for name, rest in instructions() if name == keyword]


def test_hadolint_finds_nothing():
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_base_is_pinned_by_its_digest_and_can_be_replaced():
    (base,) = [text for text in values("ARG") if text.startswith("BASE_IMAGE=")]
    assert re.fullmatch(r"BASE_IMAGE=\S+:[\w.-]+@sha256:[0-9a-f]{64}", base)
    assert all(text.split()[0] == "${BASE_IMAGE}" for text in values("FROM"))


def test_no_argument_or_variable_could_hold_a_secret():
    for text in values("ARG") + values("ENV"):
        for name in re.findall(r"(\w+)=", text) or [text]:
            assert not SECRET.search(name), name


def test_packages_are_installed_by_hash_or_not_from_outside():
    commands = [part for text in values("RUN") for part in text.split("&&")]
    installs = [part for part in commands if "pip install" in part]
    assert len(installs) == 3
    assert all("--require-hashes" in part or "--no-index" in part for part in installs)


def test_it_runs_as_a_number_that_is_not_root_under_an_init_with_a_health_check():
    assert values("USER") == ["1000:1000"]
    assert json.loads(values("ENTRYPOINT")[0])[0] == "tini"
    (check,) = values("HEALTHCHECK")
    assert json.loads(check.partition("CMD ")[2]) == ["python", "-m", "rwp_dist.process.heartbeat"]
    assert any("RWP_HEARTBEAT=" in text for text in values("ENV"))


@pytest.mark.parametrize("label", ["revision", "created", "licenses", "version"])
def test_it_says_what_it_was_made_from(label):
    (labels,) = values("LABEL")
    assert f'org.opencontainers.image.{label}="' in labels
    assert f'.version="{__version__}"' in labels and '.licenses="Apache-2.0"' in labels


def test_the_context_holds_what_is_copied_and_nothing_else():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = {
        source
        for text in values("COPY")
        if not text.startswith("--from")
        for source in text.split()[:-1]
    }
    assert copied == allowed
    assert all((ROOT / source).exists() for source in copied)
    assert not any(fnmatch(name, rule) for rule in allowed for name in (".git", "runs", ".netrc"))
