"""What a run was in each of its attempts: the part of a checkpoint that knows whose it is."""

from collections.abc import Iterator, Sequence
from typing import Any

from rwp_dist.base.errors import CheckpointError, ConfigError
from rwp_dist.data.classes import Classes
from rwp_dist.record.identity import Identity, changes, other_run, sentences
from rwp_dist.record.resume import how_to_change


class History:
    """The identity of this attempt, and what earlier attempts had otherwise."""

    def __init__(
        self, identity: Identity, classes: Classes | None = None, mixed_code: Sequence[str] = ()
    ) -> None:
        """
        Args:
            identity: of this attempt.
            classes: of the training data; evaluations of the checkpoint compare theirs.
            mixed_code: what its ranks have of different versions, if that is allowed.
        """
        self.identity, self._classes = identity, classes
        self._mixed_code = list(mixed_code)
        self.changes: list[str] = []
        """What changed between attempts, such as ``torch: 2.14.0 before, 2.15.0 now (step 40)``."""
        self.changed_now: list[str] = self._mixed_code
        """What is new in this attempt."""

    def state_dict(self) -> dict[str, Any]:
        return {
            "identity": self.identity,
            "changes": self.changes,
            "classes": self._classes.state() if self._classes else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Compare.

        Raises:
            CheckpointError: what affects the result has changed.
        """
        found = changes(state["identity"], self.identity)
        if told := other_run(found, self.identity):
            asked = how_to_change(found, self.identity)
            raise CheckpointError(
                f"the checkpoint is of another run ({told})",
                cure=f"{asked}restore that, or choose another run.dir",
            )
        self.changed_now = sentences(found, "before", "now") + self._mixed_code
        self.changes = list(state["changes"])

    def resumed(self, step: int, total_steps: int) -> None:
        """This attempt goes on after ``step`` updates, of so many.

        Raises:
            ConfigError: a change has made the run shorter than it is already.
        """
        if step > total_steps:
            raise ConfigError(
                f"the run would have {total_steps:,} steps, and {step:,} are done",
                key="schedule",
                cure="make it longer, with --change",
            )
        self.changes += [f"{change} (after step {step:,})" for change in self.changed_now]

    def notes(self) -> Iterator[str]:
        """What to tell a person about this attempt."""
        if changed := [text for text in self.changed_now if text not in self._mixed_code]:
            yield (
                f"The run goes on with {'; '.join(changed)}. So it is not bit for bit the run that "
                "was begun."
            )
        if self._mixed_code:
            told = "; ".join(self._mixed_code)
            yield f"Ranks have other code, which run.allow_mixed_code allows: {told}."
