"""What a person sees of an error that ends a command."""

from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from rwp_dist.base.errors import ConfigError
from rwp_dist.process import commands, limits
from rwp_dist.process.commands import Commands


def call(action) -> tuple[int, str, BaseException | None]:
    group = Commands()
    group.command("do")(action)
    result = CliRunner().invoke(group, ["do"])
    return result.exit_code, result.output, result.exception


@pytest.mark.parametrize(
    "action",
    [
        lambda: np.ones(2**58),
        lambda: torch.ones(2**58),
        lambda: bytes(2**58),
    ],
)
def test_memory_that_does_not_suffice_is_one_sentence(action) -> None:
    code, text, _ = call(action)
    assert code == 1 and text.count("\n") == 1
    assert text.startswith("memory does not suffice (") and "lower batch.per_rank" in text


def test_any_other_error_is_none_of_memory() -> None:
    def fail() -> None:
        raise RuntimeError("a memory of last summer")

    code, text, error = call(fail)
    assert code == 1 and text == "" and str(error) == "a memory of last summer"


def test_a_folder_that_is_gone_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    code, text, _ = call(lambda: None)
    assert code == 2 and text.startswith("the folder that this was started in is gone")


def test_no_command_works_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise ConfigError("no home", cure="set HOME")

    monkeypatch.setattr(commands, "check_home", refuse)
    assert call(lambda: None)[:2] == (2, "no home; set HOME.\n")


def test_a_click_error_stays_click_s() -> None:
    def fail() -> None:
        raise click.UsageError("no")

    assert call(fail)[0] == 2


@pytest.mark.parametrize(
    ("error", "code", "cure"),
    [
        (RuntimeError("can't start new thread"), 1, "ulimit -u"),
        (OSError(24, "Too many open files"), 1, "ulimit -n"),
        (OSError(28, "No space left on device", "run/metrics.jsonl"), 1, "free space there, or"),
        (OSError(27, "File too large", "run/metrics.jsonl"), 1, "ulimit -f"),
        (FileNotFoundError(2, "No usable temporary directory found in ['/tmp']"), 2, "set TMPDIR"),
    ],
)
def test_what_else_a_machine_lacks_is_one_sentence(error: Exception, code: int, cure: str) -> None:
    def fail() -> None:
        raise error

    found, text, _ = call(fail)
    assert found == code and text.count("\n") == 1 and cure in text


UNLOADED = ImportError("libtorch_cuda.so: failed to map segment from shared object")


def test_a_limit_of_addresses_that_keeps_memory_from_sufficing_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load() -> None:
        raise UNLOADED

    monkeypatch.setattr(limits, "memory_limit", lambda: 3_072_000_000)
    code, text, _ = call(load)
    assert code == 2 and text.count("\n") == 1
    assert text.endswith("; raise the limit of 3.1 GB (ulimit -v unlimited).\n")
    code, text, _ = call(lambda: np.ones(2**58))
    assert code == 1 and "(ulimit -v unlimited), or lower batch.per_rank" in text


@pytest.mark.parametrize(
    ("error", "limit"),
    [
        (UNLOADED, None),
        (ImportError(f"{UNLOADED}: Operation not permitted"), 3_072_000_000),  # noexec
        (ImportError("libgomp.so.1: cannot allocate memory in static TLS block"), None),
    ],
)
def test_another_error_of_an_import_is_not_one_of_memory(
    error: ImportError, limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load() -> None:
        raise error

    monkeypatch.setattr(limits, "memory_limit", lambda: limit)
    assert call(load)[2] is error
