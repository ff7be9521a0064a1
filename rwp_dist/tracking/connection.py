"""One connection of a run to W&B: what it has already, what it lacks, and how the run ended."""

import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from rwp_dist.base.text import shortened
from rwp_dist.config.tree import Settings
from rwp_dist.process.webhook import Alert
from rwp_dist.record.directory import RunDir
from rwp_dist.tracking.artifacts import artifact_files
from rwp_dist.tracking.columns import STEP
from rwp_dist.tracking.projection import Key, key_of, keys_of_rows, row_of

INIT_TIMEOUT_S = 20.0
"""How long one attempt to reach W&B may take, in seconds."""

UPLOAD_TIMEOUT_S = 3600.0
"""How long the upload of one run, or of its large files, may take, in seconds."""

NAME_CHARACTERS, TAG_CHARACTERS = 128, 64
"""Most characters of a name, and of a tag, in W&B."""


class Connection:
    """A run that is open in W&B. Nothing is sent twice."""

    def __init__(self, run: Any, known: Iterable[Key] = ()) -> None:
        """``run``: what ``wandb.init`` returned. ``known``: what its history has already."""
        self._run = run
        self.known = set(known)
        """What W&B has, or was sent."""

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
                init_timeout=INIT_TIMEOUT_S,
                finish_timeout=finish_timeout_s,
                finish_timeout_raises=True,
                stop_fn=stop.set,
            ),
        )
        run.define_metric("*", step_metric=STEP)
        return cls(run, history_of(run) if run.resumed else ())

    @property
    def url(self) -> str:
        """The page of the run."""
        return str(self._run.url)

    def send(self, records: Iterable[Mapping[str, Any]]) -> int:
        """Send the records that W&B lacks; returns how many."""
        sent = 0
        for record in records:
            key = key_of(record)
            if key is not None and key not in self.known:
                self._run.log(row_of(record))
                self.known.add(key)
                sent += 1
        return sent

    def add_artifacts(self, run_dir: RunDir, kinds: Iterable[str]) -> None:
        """Upload files as artifacts; W&B makes a new version only if they have changed.

        They must stay as they are until ``close``.
        """
        import wandb

        for kind in kinds:
            artifact = wandb.Artifact(f"{kind}-{self._run.id}", type=kind)
            with artifact_files(kind, run_dir) as files:
                for path in files:
                    # A copy is made of what is about to be removed.
                    kept = path.parent in (run_dir.path, run_dir.checkpoints)
                    policy = "immutable" if kept else "mutable"
                    artifact.add_file(str(path), path.name, policy=policy, skip_cache=True)
                self._run.log_artifact(artifact)

    def summarize(self, summary: Mapping[str, Any]) -> None:
        """Put the numbers of ``summary.json`` into the run's summary."""
        self._run.summary.update(summary)

    def alert(self, alert: Alert) -> None:
        """Have W&B tell a person, by email or Slack, as their settings there say."""
        self._run.alert(alert.title, alert.text, level=alert.level)

    def history(self) -> set[Key]:
        """What W&B's server has of the run by now."""
        return history_of(self._run)

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


def history_of(run: Any) -> set[Key]:
    """Kind and step of every row that W&B's server has of a run."""
    import wandb

    found = wandb.Api().run(f"{run.entity}/{run.project}/{run.id}")
    return keys_of_rows(found.scan_history(use_cache=False))


def quiet() -> Any:
    """W&B's settings of this process; it prints nothing from here on."""
    import wandb

    return wandb.setup(settings=wandb.Settings(silent=True))


def reset() -> None:
    """Start W&B's service anew. Only that releases the identity that a failed start holds."""
    import wandb

    for call in (wandb.teardown, quiet):
        with suppress(Exception):  # of a service that is dead; the next connection tells
            call()


def has_login() -> bool:
    """Whether W&B finds an API key or an identity token, without asking anyone."""
    import wandb

    try:
        return bool(wandb.login(prompt=False, verify=False))
    except wandb.Error:
        return False


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
    own = (settings.method.name, settings.model.name)
    fitting = [shortened(tag, TAG_CHARACTERS) for tag in own]
    return list(dict.fromkeys((*fitting, *settings.tracking.tags)))
