"""Weights & Biases: what a run would do with it, and whether the server takes the login."""

import os
import re
from collections.abc import Iterator

from rwp_dist.config import Settings
from rwp_dist.doctor.case import Case
from rwp_dist.doctor.finding import Finding
from rwp_dist.tracking.wandb import choose_mode

GROUP = "tracking"

VERIFY_S = 10


def wandb(case: Case) -> Iterator[Finding]:
    """A run goes on without W&B in any case, so nothing here is a problem."""
    settings = case.settings or Settings()
    mode, why = choose_mode(settings)
    if mode == "off":
        yield Finding(GROUP, "W&B", "ok", f"off ({why}); metrics.jsonl holds every number")
    elif mode == "offline":
        more = "; `wandb login` turns it on" if why == "no login found" else ""
        yield Finding(GROUP, "W&B", "ok", f"offline ({why}), sent later with wandb sync{more}")
    else:
        yield from _online()


def _online() -> Iterator[Finding]:
    import wandb

    server = re.sub(r"//[^/@\s]+@", "//", str(wandb.setup().settings.base_url))
    try:
        good, text = bool(wandb.login(prompt=False, verify=True, timeout=VERIFY_S)), ""
    except Exception as error:
        good, text = False, _without_keys(" ".join(str(error).split()))
    if good:
        yield Finding(GROUP, "W&B", "ok", f"online at {server}, and it takes the login")
    elif not text:
        yield Finding(
            GROUP,
            "W&B",
            "warning",
            "tracking.wandb is online and there is no login, so the run would go offline",
            "Log in (wandb login), or set tracking.wandb to offline.",
        )
    elif "credentials" in text or "API key" in text:
        yield Finding(
            GROUP,
            "W&B",
            "warning",
            f"{server} does not know the login that is set here; the run would go offline",
            "Log in again (wandb login --relogin), or set WANDB_API_KEY anew.",
        )
    else:
        yield Finding(
            GROUP,
            "W&B",
            "warning",
            f"{server} does not answer ({text[:200]}); the run would go offline",
            "Check the network or HTTPS_PROXY, or set tracking.wandb to offline, as compute nodes "
            "without internet need.",
        )


def _without_keys(text: str) -> str:
    """The text less anything that could be a key."""
    for key in filter(None, [os.environ.get("WANDB_API_KEY")]):
        text = text.replace(key, "...")
    return re.sub(r"[0-9A-Za-z_]{40,}", "...", text)
