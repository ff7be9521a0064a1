"""Weights & Biases, an optional sink: it may fail, be slow or be away, and training goes on.

After a crash, the steps since the last checkpoint are sent again, so W&B may show them twice:
what it has kept of the last seconds is not known here, and a point too many is better than a gap.
``metrics.jsonl`` has each step once.
"""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from rwp_dist.config.tree import Settings
from rwp_dist.record.directory import RunDir
from rwp_dist.tracking.columns import named
from rwp_dist.tracking.sink import RunInfo, Sink, first_line

INIT_TIMEOUT_S = 20.0
"""How long a run waits for W&B's server at its start before it goes offline, in seconds."""

FINISH_TIMEOUT_S = 30.0
"""How long a run waits at its end for the rest to be uploaded, in seconds."""


class Wandb(Sink):
    """Sends a record as ``<kind>/<column>`` against ``global_step``; never waits for a network."""

    name = "W&B"
    optional = True

    def __init__(self, run: Any, stop: threading.Event) -> None:
        """``run``: what ``wandb.init`` returned. ``stop``: set when its stop button is pressed."""
        self._run = run
        self._stop = stop
        self.folder = Path(run.dir).parent
        self.recovery = f"what W&B has so far can be sent with: wandb sync {self.folder}"

    @classmethod
    def open(cls, run: RunInfo) -> "Wandb | None":
        """Start or continue this run in W&B; offline if asked, or if no server answers."""
        mode, why = choose_mode(run.settings)
        if mode == "off":
            return None
        import wandb

        if mode == "online":
            try:
                sink = _start(run, mode)
            except Exception as error:
                why = first_line(error)
                # Only a fresh service releases the identity that the failed start holds.
                wandb.teardown()
                wandb.setup(settings=wandb.Settings(silent=True))
            else:
                run.say(f"W&B: {sink._run.url}")
                return sink
        sink = _start(run, "offline")
        run.say(f"W&B is offline ({why}); send this run later with: wandb sync {sink.folder}")
        return sink

    @property
    def stop_requested(self) -> bool:
        """Whether the stop button of W&B's page was pressed (seen within about 15 s)."""
        return self._stop.is_set()

    def log(self, kind: str, record: Mapping[str, Any]) -> None:
        self._run.log(named(kind, record) | {"global_step": record["step"]})

    def summarize(self, summary: Mapping[str, Any]) -> None:
        self._run.summary.update(summary)

    def close(self, state: str) -> None:
        """Upload what is left, for ``FINISH_TIMEOUT_S`` at most, and end the run."""
        if state == "interrupted":
            self._run.mark_preempting()
        self._run.finish(exit_code=0 if state == "finished" else 1)


def choose_mode(settings: Settings) -> tuple[Literal["online", "offline", "off"], str]:
    """What W&B does for these settings, and why it is not online."""
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
    """The resolved settings, the commit and the number of ranks, for W&B's page of the run."""
    config = settings.model_dump(by_alias=True, mode="json")
    known = run_dir.read_environment() or {}
    git = known.get("git") or {}
    return config | {
        "git_commit": git.get("commit"),
        "git_dirty": git.get("dirty"),
        "world_size": known.get("world_size"),
    }


def tags_of(settings: Settings) -> list[str]:
    """W&B tags: the method, the model and ``tracking.tags``, each once."""
    return list(dict.fromkeys((settings.method.name, settings.model.name, *settings.tracking.tags)))


def has_login() -> bool:
    """Whether W&B finds an API key or an identity token, without asking anyone."""
    import wandb

    try:
        return bool(wandb.login(prompt=False, verify=False))
    except wandb.Error:
        return False


def _start(run: RunInfo, mode: Literal["online", "offline"]) -> Wandb:
    import wandb

    tracking, run_dir = run.settings.tracking, run.run_dir
    stop = threading.Event()
    started = wandb.init(
        mode=mode,
        project=tracking.project,
        entity=tracking.entity,
        name=run.settings.run.name or run_dir.path.name,
        group=tracking.group,
        tags=tags_of(run.settings),
        config=config_of(run.settings, run_dir),
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
    started.define_metric("*", step_metric="global_step")
    return Wandb(started, stop)
