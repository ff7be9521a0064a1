"""``rwp-dist doctor`` says what will draw a run's noise."""

import pytest

from rwp_dist.config import load_settings
from rwp_dist.doctor.case import Case
from rwp_dist.doctor.noise import generator
from rwp_dist.perturb.normals import native


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """As on a machine that has compiled nothing yet."""

    def forget():
        native.library.cache_clear()
        native.is_fast.cache_clear()

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    forget()
    yield
    forget()


def found(*settings):
    return list(generator(Case(load_settings(None, ["run.device=cpu", *settings]))))


def test_a_machine_with_a_compiler_draws_noise_in_c():
    (finding,) = found("method.name=m-rwp", "noise.backend=native")
    assert (finding.state, finding.seen) == ("ok", "drawn by normals.c")


@pytest.mark.parametrize(("backend", "state"), [("auto", "warning"), ("native", "problem")])
def test_without_a_compiler_it_is_slower_or_cannot_run(monkeypatch, backend, state):
    monkeypatch.setenv("CC", "no-such-compiler")
    (finding,) = found("method.name=arwp", f"noise.backend={backend}")
    assert finding.state == state
    assert "no-such-compiler" in finding.seen and "C compiler" in finding.cure


def test_where_no_noise_is_drawn_or_torch_is_wanted_there_is_nothing_to_say():
    assert found("method.name=sam") == found("method.name=rwp", "noise.backend=torch") == []
