"""What will draw a run's noise on this machine's CPU."""

from collections.abc import Iterator

from rwp_dist.base.errors import ConfigError
from rwp_dist.doctor.case import Case
from rwp_dist.doctor.finding import Finding
from rwp_dist.perturb.methods import METHODS
from rwp_dist.perturb.normals import native

GROUP = "noise"
NAME = "generator"


def generator(case: Case) -> Iterator[Finding]:
    """Whether the C file that draws noise can be compiled; on GPUs Triton draws it."""
    assert case.settings is not None
    wanted = case.settings.noise.backend
    noisy = METHODS[case.settings.method.name].direction == "noise"
    if case.on_gpus or not noisy or wanted not in ("auto", "native"):
        return
    try:
        native.library()
    except ConfigError as error:
        yield Finding(
            GROUP,
            NAME,
            "problem" if wanted == "native" else "warning",
            f"drawn by torch's generator, which takes two to four times as long ({error})"
            if wanted == "auto"
            else str(error).rstrip("."),
            "Install a C compiler, or set CC to yours.",
        )
        return
    chosen = wanted == "native" or native.is_fast()
    seen = "drawn by normals.c" if chosen else "drawn by torch's generator: there is no AVX2 here"
    yield Finding(GROUP, NAME, "ok", seen)
