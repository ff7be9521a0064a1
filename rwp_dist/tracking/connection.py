"""One connection of a run to W&B: what it has already, what it lacks, and how the run ended."""

import atexit
import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rwp_dist.base.text import shortened
from rwp_dist.base.urls import shown, shown_tree
from rwp_dist.config.sources import VARIABLES
from rwp_dist.config.tree import Settings
from rwp_dist.process.webhook import Alert
from rwp_dist.record.directory import RunDir
from rwp_dist.record.identity import OTHERS, brief
from rwp_dist.tracking.artifacts import OF_A_FINISHED_RUN, artifact_files
from rwp_dist.tracking.columns import STEP
from rwp_dist.tracking.projection import Key, losses_of_row, row_of
from rwp_dist.tracking.sink import first_line

INIT_TIMEOUT_S = 20.0
"""How long one attempt to reach W&B may take, in seconds."""

LOGIN_CURE = "run `wandb login`, or set WANDB_API_KEY to a key of W&B's, and start it again"

API_TIMEOUT_S = 30
"""How long W&B's server may take to answer a question, in seconds."""

ARTIFACT_TIMEOUT_S = 200
"""How long the upload of one large file may take, in seconds. Other ranks may wait for it inside a
collective, which ends after ten minutes with NCCL."""

SERVICE_END_S = 30.0
"""How long W&B's service may take to end, in seconds. All that is to be sent is sent by then."""

NAME_CHARACTERS, TAG_CHARACTERS = 128, 64
"""Most characters of a name, and of a tag, in W&B."""


class Connection:
    """A run that is open in W&B. Nothing is sent twice."""

    def __init__(self, run: Any) -> None:
        """``run``: what ``wandb.init`` returned."""
        self._run = run
        history = history_of(run, run.starting_step) if run.resumed else History({}, -1)
        self._losses = history.losses
        self._last_row = history.last_row
        self.sent: set[Key] = set()
        """Records that W&B lacked, and got."""
        self.there: set[Key] = set()
        """Records that it had already."""
        self.differing = 0
        """Those of ``there`` whose loss is another one: of updates that a resume took back."""

    @classmethod
    def connect(
        cls, settings: Settings, run_dir: RunDir, finish_timeout_s: float, stop: threading.Event
    ) -> "Connection":
        """Start this run in W&B, or continue it.

        Args:
            settings: of the run.
            run_dir: of the run; W&B's own files go to ``wandb/`` there.
            finish_timeout_s: how long ``close`` may upload, in seconds.
            stop: is set when the stop button of W&B's page is pressed (seen within about 15 s).

        Raises:
            Exception: W&B cannot be reached, or refuses; any of its many.
        """
        import wandb

        quiet()
        tracking = settings.tracking
        (run_dir.path / "wandb").mkdir(parents=True, exist_ok=True)  # else it takes /tmp
        run = wandb.init(
            mode="online",
            project=tracking.project,
            entity=tracking.entity,
            name=shortened(
                tracking.name or settings.run.name or run_dir.path.name, NAME_CHARACTERS
            ),
            group=tracking.group,
            tags=tags_of(settings),
            notes=tracking.notes,
            config=config_of(settings, run_dir),
            dir=str(run_dir.path.resolve()),
            id=run_dir.wandb_id(tracking.id),
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(
                silent=True,
                console="off",
                # Of the folder that it is started in W&B would write down another project's commit.
                disable_git=True,
                git_commit=commit_in(run_dir),
                init_timeout=INIT_TIMEOUT_S,
                finish_timeout=finish_timeout_s,
                finish_timeout_raises=True,
                stop_fn=stop.set,
            ),
        )
        end_service_at_exit()
        run.define_metric("*", step_metric=STEP)
        return cls(run)

    @property
    def url(self) -> str:
        """The page of the run."""
        return str(self._run.url)

    def send(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Send the records that W&B lacks."""
        for record in records:
            key = record["kind"], record["step"]
            if key not in self._losses:
                self._run.log(row_of(record))
                self._last_row += 1
                self._losses[key] = record.get("loss")
                self.sent.add(key)
            elif key not in self.sent:
                self.there.add(key)
                self.differing += self._losses[key] != record.get("loss")

    def lacks_rows(self, until: int | None = None) -> bool:
        """Whether W&B's server does not show all rows yet that it was sent, by their number.

        Args:
            until: only rows up to this one count (``last_row``).
        """
        import wandb

        run = wandb.Api(timeout=API_TIMEOUT_S).run(path_of(self._run))
        return int(run.lastHistoryStep) < (self._last_row if until is None else until)

    @property
    def last_row(self) -> int:
        """Number of the last row that was sent, from 0; -1 before the first."""
        return self._last_row

    def add_artifacts(self, run_dir: RunDir, kinds: Iterable[str]) -> None:
        """Upload files as artifacts; W&B makes a new version only if they have changed.

        Those of a finished run are waited for.

        Raises:
            Exception: W&B refuses, or takes too long.
        """
        import wandb

        for kind in kinds:
            artifact = wandb.Artifact(f"{kind}-{self._run.id}", type=kind)
            with artifact_files(kind, run_dir) as files:
                for path in files:
                    artifact.add_file(str(path), path.name, policy="immutable", skip_cache=True)
                logged = self._run.log_artifact(artifact)
                if kind in OF_A_FINISHED_RUN:
                    logged.wait(ARTIFACT_TIMEOUT_S)

    def summarize(self, summary: Mapping[str, Any]) -> None:
        """Put the numbers of ``summary.json`` into the run's summary."""
        self._run.summary.update(summary)

    def alert(self, alert: Alert) -> None:
        """Have W&B tell a person, by email or Slack, as their settings there say."""
        self._run.alert(alert.title, alert.text, level=alert.level)

    def missing(self) -> set[Key]:
        """Records that W&B's server does not show although they were sent."""
        history = history_of(self._run, self._last_row + 1)
        return (self.sent | self.there) - history.losses.keys()

    def close(self, state: str) -> None:
        """Upload what is left, and say how the run ended.

        Args:
            state: "finished" or "failed"; any other is preempted there, because the run goes on.

        Raises:
            Exception: it takes too long.
        """
        if state not in ("finished", "failed"):
            self._run.mark_preempting()
        self._run.finish(exit_code=0 if state == "finished" else 1)


@dataclass(frozen=True)
class History:
    """The rows that W&B's server shows of a run."""

    losses: dict[Key, Any]
    """The loss of each, by kind and step."""

    last_row: int
    """Number of the last one, from 0; -1: there is none."""


def history_of(run: Any, num_rows: int) -> History:
    """What W&B's server has of a run.

    It may show rows some seconds after it has taken them, so half a minute is waited for them.

    Args:
        run: what ``wandb.init`` returned.
        num_rows: how many rows there should be.
    """
    import wandb

    for pause_s in (1, 2, 4, 8, 15, 0):
        found = wandb.Api(timeout=API_TIMEOUT_S).run(path_of(run))
        losses, last_row = dict[Key, Any](), -1
        for row in found.scan_history(use_cache=False):  # a page of them at a time
            losses |= losses_of_row(row)
            last_row = max(last_row, int(row["_step"]))
        if last_row + 1 >= num_rows:
            break
        time.sleep(pause_s)
    return History(losses, last_row)


def path_of(run: Any) -> str:
    """What W&B's programming interface calls a run."""
    return f"{run.entity}/{run.project}/{run.id}"


def quiet() -> Any:
    """W&B's settings of this process; it prints nothing from here on.

    Our settings have taken what W&B's variables say. A variable of another shell must not change
    where a run goes that began without it.
    """
    import wandb

    if "WANDB_SWEEP_ID" not in os.environ:  # a run of W&B's agent is what its variables say
        for variable in VARIABLES.values():
            os.environ.pop(variable, None)
    # W&B's telemetry of itself; what it says of "metrics" is not about the run's.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)

    return wandb.setup(settings=wandb.Settings(silent=True))


def reset() -> None:
    """Start W&B's service anew. Only that releases the identity that a failed start holds."""
    end_service()
    with suppress(Exception):  # the next connection tells
        quiet()


def end_service(wait_s: float = SERVICE_END_S) -> None:
    """End W&B's service; kill it after ``wait_s`` seconds.

    W&B itself waits without end, also for a service that has not heard that it should end.
    """
    import wandb
    from wandb.sdk import wandb_setup

    connection = getattr(wandb_setup._singleton, "_connection", None)
    process = getattr(getattr(connection, "_proc", None), "_process", None)

    def end() -> None:
        with suppress(Exception):  # of a service that is dead
            wandb.teardown()

    ending = threading.Thread(target=end, daemon=True)
    ending.start()
    ending.join(wait_s)
    if ending.is_alive() and process is not None:
        process.kill()
        ending.join(wait_s)


def end_service_at_exit() -> None:
    """Have ``end_service`` called before W&B's own hook, which it has registered by now."""
    atexit.unregister(end_service)
    atexit.register(end_service)


def why_of(error: Exception) -> str:
    """What is wrong with W&B, in a few words; with the cure, if the login is what it refuses."""
    import wandb

    text = str(error)
    server = shown(wandb.setup().settings.base_url)
    if any(f"error {code}" in text for code in (401, 403)):
        return f"{server} refuses this login; `wandb login --relogin`, or see tracking.entity"
    if any(words in text for words in ("deadline exceeded", "connection refused", "Timed out")):
        return f"{server} does not answer"
    return first_line(error)


def has_login() -> bool:
    """Whether W&B finds an API key or an identity token, without asking anyone."""
    import wandb

    try:
        return bool(wandb.login(prompt=False, verify=False))
    except wandb.Error:
        return False


def config_of(settings: Settings, run_dir: RunDir) -> dict[str, Any]:
    """The resolved settings, the commit and the number of ranks, for W&B's page of the run."""
    config = shown_tree(settings.model_dump(by_alias=True, mode="json"))
    known = run_dir.read_environment() or {}
    git, identity = known.get("git") or {}, brief(run_dir.read_identity() or {})
    return config | {
        "git_commit": git.get("commit"),
        "git_dirty": git.get("dirty"),
        "git_unknown": git.get("unknown"),
        "world_size": known.get("world_size"),
        "identity": {key: identity.get(key) for key in OTHERS},
    }


def commit_in(run_dir: RunDir) -> str | None:
    """The commit of the code of the newest attempt, if it is known."""
    return ((run_dir.read_environment() or {}).get("git") or {}).get("commit")


def tags_of(settings: Settings) -> list[str]:
    """W&B tags: the method, the model and ``tracking.tags``, each once."""
    own = (settings.method.name, settings.model.name)
    fitting = [shortened(tag, TAG_CHARACTERS) for tag in own]
    return list(dict.fromkeys((*fitting, *settings.tracking.tags)))
