"""What a run was in each of its attempts."""

import pytest

from rwp_dist.base.errors import CheckpointError, ConfigError
from rwp_dist.config import load_settings
from rwp_dist.record.identity import ENGINE, identity_of
from rwp_dist.run.history import History

DATA = {"data.train.id": "1", "data.train.classes": "2", "data.val.id": "3"}


def identity(*overrides: str, **more: str) -> dict:
    settings = load_settings(None, overrides)
    return identity_of(settings, ranks=2, data=DATA, git={"commit": "abc"}) | more


def test_a_first_attempt_has_changed_nothing_and_says_nothing() -> None:
    history = History(identity())
    history.resumed(0, 40)
    assert (history.changes, list(history.notes())) == ([], [])


def test_changes_of_all_attempts_are_kept_with_their_step() -> None:
    state = History(identity(torch="1")).state_dict()
    for step, torch in ((10, "2"), (20, "2"), (30, "3")):
        history = History(identity(torch=torch))
        history.load_state_dict(state)
        history.resumed(step, 40)
        state = history.state_dict()
    assert history.changes == [
        "torch: 1 before, 2 now (after step 10)",
        "torch: 2 before, 3 now (after step 30)",
    ]
    [note] = history.notes()
    assert "torch: 2 before, 3 now" in note and "step 10" not in note


def test_another_engine_is_told_unless_an_earlier_version_did_not_say_which_it_had() -> None:
    before, now = ({ENGINE: name} for name in ("DDP", "DeepSpeed at stage 1"))
    for state, wanted in (
        (identity(), []),
        (identity(**now), []),
        (identity(**before), ["engine: DDP before, DeepSpeed at stage 1 now"]),
    ):
        history = History(identity(**now))
        history.load_state_dict(History(state).state_dict())
        assert history.changed_now == wanted


def test_ranks_with_other_code_are_said_and_kept() -> None:
    history = History(identity(), mixed_code=["torch: 2 on rank 0 (a), 3 on rank 1 (b)"])
    history.resumed(0, 40)
    assert history.changes == ["torch: 2 on rank 0 (a), 3 on rank 1 (b) (after step 0)"]
    [note] = history.notes()
    assert note.startswith("Ranks have other code")


def test_a_checkpoint_of_another_run_is_refused() -> None:
    state = History(identity()).state_dict()
    with pytest.raises(CheckpointError, match=r"run\.seed: 0 there, 1 here"):
        History(identity("run.seed=1")).load_state_dict(state)


def test_the_cure_names_each_change_that_has_to_be_asked_for() -> None:
    """Such as of an attempt that died before its first checkpoint."""
    state = History(identity()).state_dict()
    changed = ("optimizer.betas=[0.8,0.9]", "schedule.name=constant")
    with pytest.raises(CheckpointError) as caught:
        History(identity(*changed)).load_state_dict(state)
    assert caught.value.cure == (
        "ask for it with `rwp-dist train ... --change 'optimizer.betas=[0.8, 0.9]' --change "
        "schedule.name=constant`, restore that, or choose another run.dir"
    )
    with pytest.raises(CheckpointError) as caught:
        History(identity(*changed, "run.seed=1")).load_state_dict(state)
    assert "--change" not in str(caught.value.cure)
    asked = [change.partition("=")[0] for change in changed]
    History(identity(*changed, f"run.change={asked}")).load_state_dict(state)


def test_what_was_asked_for_may_change_and_is_told() -> None:
    state = History(identity("schedule.epochs=10")).state_dict()
    longer = "schedule.epochs=20"
    with pytest.raises(CheckpointError, match=r"schedule\.epochs: 10\.0 there, 20\.0 here"):
        History(identity(longer)).load_state_dict(state)
    history = History(identity(longer, "run.change=[schedule.epochs]"))
    history.load_state_dict(state)
    history.resumed(7, 40)
    assert history.changes == ["schedule.epochs: 10.0 before, 20.0 now (after step 7)"]


def test_a_run_that_would_be_shorter_than_it_is_is_refused() -> None:
    with pytest.raises(ConfigError, match="would have 6 steps, and 7 are done"):
        History(identity()).resumed(7, 6)
