"""How an attempt ended, in ``status.json`` and ``attempts.tsv``."""

from collections.abc import Sequence
from contextlib import suppress

from rwp_dist.base import clock
from rwp_dist.base.errors import Interrupted, RwpError
from rwp_dist.record.attempts import lost_line
from rwp_dist.record.directory import RunDir


def write_end(
    run_dir: RunDir,
    state: str,
    steps: tuple[int, int, int],
    failure: BaseException | None = None,
    *,
    reason: str | None = None,
    changed: Sequence[str] = (),
) -> None:
    """Say how an attempt ended.

    Args:
        run_dir: of the run.
        state: ``finished``, ``interrupted`` or ``failed``.
        steps: updates done before it began and when it ended, and updates of the whole run.
        failure: what ended it.
        reason: who asked for the end (``RunDir.write_status``).
        changed: what it had otherwise than the attempt before.
    """
    first, done, total = steps
    code = {"finished": 0, "interrupted": Interrupted.exit_code}.get(state, 1)
    more: dict[str, int | str] = {"exit_code": getattr(failure, "exit_code", code)}
    if reason is not None:
        more["reason"] = reason
    if failure is not None:
        more["message"] = str(failure) or type(failure).__name__
    run_dir.write_status(state, done, total, **more)
    begun = run_dir.read_begun() or {"started": clock.now()}
    run_dir.append_attempt(begun["started"], state, first, done, changed)
    run_dir.begun.unlink(missing_ok=True)


def write_lost(run_dir: RunDir) -> None:
    """Add the attempt before, if it was killed and so could not say how it ended.

    Only for a process that holds the directory, so that no other one trains there.
    """
    if begun := run_dir.read_begun():
        steps = [int(begun["first_step"]), run_dir.saved_step()]
        status = run_dir.read_status() or {}
        if "time" in status and clock.seconds(status["time"]) >= clock.seconds(begun["started"]):
            steps.append(status["step"])
        run_dir.append_to_attempts(lost_line(begun, max(steps)))
    run_dir.begun.unlink(missing_ok=True)


def write_refusal(run_dir: RunDir, error: RwpError) -> None:
    """Say in the directory of a run that exists already why this attempt did not begin."""
    if not run_dir.exists():
        return
    # Another process may train there, or the disk be full: the error that is told is the first.
    with suppress(RwpError, OSError), run_dir.locked():
        write_lost(run_dir)
        step = run_dir.saved_step()
        total = (run_dir.read_status() or {}).get("total_steps", 0)
        write_end(run_dir, "failed", (step, step, total), error)
