"""``rwp-dist plan``: forecast every method on a cluster, and draw more and fewer GPUs."""

from pathlib import Path

from rwp_dist.base import disk
from rwp_dist.base.errors import ConfigError
from rwp_dist.base.files import write_bytes
from rwp_dist.config import Settings
from rwp_dist.plan.forecast import (
    Cluster,
    forecast,
    forecast_methods,
    profile_of,
    with_auto_stage,
)
from rwp_dist.plan.report import report


def make_plan(
    settings: Settings, cluster: Cluster, price: float | None, out: Path | None
) -> list[str]:
    """Lines for a terminal.

    Args:
        settings: of the run; every method is put in place of its own.
        cluster: what is rented.
        price: of a GPU for an hour; None: not known.
        out: folder for ``plan.png``; None: nothing is drawn.

    Raises:
        ConfigError: the GPUs cannot share the batch, there is no such model, or it cannot be
            counted.
        RwpError: ``out`` cannot be written to.
    """
    if cluster.mfu is not None and settings.precision == "fp32":
        raise ConfigError(
            "is a share of the peak in bf16, and precision is fp32",
            key="--mfu",
            cure="leave it out, or set precision to bf16",
        )
    profile = profile_of(settings)
    found = forecast_methods(settings, cluster, profile)
    by_auto = forecast(with_auto_stage(found[0].settings), cluster, profile)
    lines = report(found, by_auto, cluster, price)
    if out is None:
        return lines
    from rwp_dist.plan.plot import picture  # matplotlib takes a second to import

    try:
        write_bytes(out / "plan.png", picture(found, cluster, profile))
    except OSError as error:
        raise disk.unwritable(out, error, "give --out") from None
    return [*lines, "", f"Written: {out / 'plan.png'}"]
