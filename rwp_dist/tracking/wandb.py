"""Weights & Biases as a guest: it may fail, be slow or be away, and training does not notice.

Every call is guarded; the first failure says one line and switches W&B off. ``metrics.jsonl``
holds the same numbers in any case.

After a crash, steps since the checkpoint are sent again, so W&B may show them twice: what it has
kept of the last seconds is not known here, and a point too many is better than a gap.
``metrics.jsonl`` has each step once.
"""

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from rwp_dist.config.tree import Settings
from rwp_dist.record.directory import RunDir

INIT_TIMEOUT_S = 20.0
"""How long a run waits for W&B's server at its start before it goes offline."""

FINISH_TIMEOUT_S = 30.0
"""How long a run waits at its end for the rest to be uploaded."""


class WandbRun:
    """An open W&B run, guarded. ``say`` prints one line for the user."""

    def __init__(self, run: Any, say: Callable[[str], None], stop: threading.Event) -> None:
        self._run = run
        self._stop = stop
        self.say = say
        self.folder = Path(run.dir).parent

    @property
    def stop_requested(self) -> bool:
        """Whether the stop button of W&B's page was pressed (seen within about 15 s)."""
        return self._stop.is_set()

    def log(self, kind: str, record: dict[str, Any]) -> None:
        """Send a record as ``<kind>/<key>`` against ``global_step``; never waits for a network."""
        values = {
            f"{kind}/{key}": value
            for key, value in record.items()
            if value is not None and key not in ("step", "total_steps")
        }
        self._guard(lambda run: run.log({**values, "global_step": record["step"]}))

    def summarize(self, summary: dict[str, Any]) -> None:
        """Set W&B's summary."""
        self._guard(lambda run: run.summary.update(summary))

    def close(self, state: str) -> None:
        """Upload what is left, for ``FINISH_TIMEOUT_S`` at most, and end the run."""

        def end(run: Any) -> None:
            if state == "interrupted":
                run.mark_preempting()
            run.finish(exit_code=0 if state == "finished" else 1)

        self._guard(end)
        self._run = None

    def _guard(self, call: Callable[[Any], Any]) -> None:
        if self._run is None:
            return
        try:
            call(self._run)
        except Exception as error:
            self._run = None
            self.say(
                f"W&B is off from here ({_short(error)}); metrics.jsonl goes on, and what W&B "
                f"has so far can be sent with: wandb sync {self.folder}"
            )


def open_wandb(settings: Settings, run_dir: RunDir, say: Callable[[str], None]) -> WandbRun | None:
    """Start or continue this run in W&B; None if that is not wanted or not possible."""
    try:
        mode, why = choose_mode(settings)
        if mode == "off":
            return None
        if mode == "offline":
            return _open(settings, run_dir, mode, say, why)
        import wandb

        try:
            return _open(settings, run_dir, "online", say, "")
        except Exception as error:
            # Only a fresh service lets go of the identity that the failed start holds.
            wandb.teardown()
            wandb.setup(settings=wandb.Settings(silent=True))
            return _open(settings, run_dir, "offline", say, _short(error))
    except Exception as error:
        say(f"W&B is off ({_short(error)}); metrics.jsonl holds every number.")
        return None


def choose_mode(settings: Settings) -> tuple[Literal["online", "offline", "off"], str]:
    """What a run will do, and why if it is neither the settings' wish nor online."""
    mode = settings.tracking.wandb
    if mode == "off":
        return "off", "as set by tracking.wandb"
    import wandb

    # For the whole process: looking for a login prints otherwise.
    site = wandb.setup(settings=wandb.Settings(silent=True)).settings.mode
    if mode != "auto":
        return mode, "as set by tracking.wandb"
    if site == "disabled":
        return "off", "WANDB_MODE is disabled"
    if site not in ("online", "run", "shared"):
        return "offline", f"WANDB_MODE is {site}"
    if has_login():
        return "online", ""
    return "offline", "no login found"


def config_of(settings: Settings, run_dir: RunDir) -> dict[str, Any]:
    """The resolved settings, with the commit and the number of ranks beside them."""
    config = settings.model_dump(by_alias=True, mode="json")
    known = run_dir.read_environment() or {}
    git = known.get("git") or {}
    return config | {
        "git_commit": git.get("commit"),
        "git_dirty": git.get("dirty"),
        "world_size": known.get("world_size"),
    }


def tags_of(settings: Settings) -> list[str]:
    """Method, model, then what the settings add, each once."""
    return list(dict.fromkeys((settings.method.name, settings.model.name, *settings.tracking.tags)))


def has_login() -> bool:
    """Whether W&B finds an API key or an identity token, without asking anyone."""
    import wandb

    try:
        return bool(wandb.login(prompt=False, verify=False))
    except wandb.Error:
        return False


def _open(
    settings: Settings,
    run_dir: RunDir,
    mode: Literal["online", "offline"],
    say: Callable[[str], None],
    why: str,
) -> WandbRun:
    import wandb

    stop = threading.Event()
    run = wandb.init(
        mode=mode,
        project=settings.tracking.project,
        entity=settings.tracking.entity,
        name=settings.run.name or run_dir.path.name,
        group=settings.tracking.group,
        tags=tags_of(settings),
        config=config_of(settings, run_dir),
        dir=str(run_dir.path.resolve()),
        id=run_dir.wandb_id(),
        resume="allow",
        settings=wandb.Settings(
            silent=True,
            console="off",
            init_timeout=INIT_TIMEOUT_S,
            finish_timeout=FINISH_TIMEOUT_S,
            finish_timeout_raises=True,
            stop_fn=stop.set,
        ),
    )
    opened = WandbRun(run, say, stop)
    opened._guard(lambda r: r.define_metric("*", step_metric="global_step"))
    if mode == "offline":
        say(f"W&B is offline ({why}); send this run later with: wandb sync {opened.folder}")
    else:
        say(f"W&B: {run.url}")
    return opened


def _short(error: Exception) -> str:
    """One line of an error, and of its text only the first: the rest repeats what was tried."""
    text = str(error).strip().split("\n")[0].rstrip(".")
    text = re.sub(r"//[^/@\s]+@", "//", text)  # a server's address may carry a password
    return text[:160] or type(error).__name__
