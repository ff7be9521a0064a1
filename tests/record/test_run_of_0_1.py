"""A run directory that version 0.1 wrote is read (``tests/run/test_old_run.py`` resumes it)."""

from pathlib import Path

import pytest

from rwp_dist.base.errors import ConfigError
from rwp_dist.config import load_settings
from rwp_dist.record.directory import RunDir, run_directories
from rwp_dist.record.resume import changed_settings, continued_settings

FIXTURE = Path(__file__).parents[1] / "fixtures" / "written_by_0_1"
RUN = RunDir(FIXTURE / "run")


def test_its_files_are_read() -> None:
    assert list(run_directories(FIXTURE)) == [RUN.path]
    status, summary, environment = RUN.read_status(), RUN.read_summary(), RUN.read_environment()
    assert status and summary and environment
    assert (status["state"], status["step"]) == ("finished", 12)
    assert (summary["method"], summary["top1"]) == ("m-arwp", 100.0)
    assert environment["world_size"] == 2
    assert [record["step"] for record in RUN.read_metrics("train")] == [2, 4, 6, 8, 10, 12]
    assert [record["step"] for record in RUN.read_metrics("eval")] == [6, 12]
    [attempt] = RUN.read_attempts()
    assert (attempt["state"], attempt["last_step"]) == ("finished", "12")
    assert RUN.saved_step() == 6


def test_its_settings_are_read() -> None:
    settings = load_settings(RUN.config)
    assert (settings.method.name, settings.method.sigma, settings.method.eta) == (
        "m-arwp",
        0.05,
        100.0,
    )
    assert (settings.run.label, settings.run.seed, settings.run.dir) == ("m-arwp", 3, "run")
    assert changed_settings(RUN, settings, ranks=2) == []


def test_its_optimizer_decays_all_parameters_whatever_null_means_now() -> None:
    settings = load_settings(RUN.config)
    assert settings.optimizer.no_decay is None
    assert continued_settings(RUN, settings).optimizer.no_decay == ()
    other = load_settings(RUN.config, ["optimizer.no_decay=['*.bias']"])
    with pytest.raises(ConfigError, match=r"optimizer\.no_decay: \[\] there, "):
        changed_settings(RUN, other, ranks=2)
