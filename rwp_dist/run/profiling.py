"""A window of steps as a trace for Perfetto or ``chrome://tracing``, with named parts.

``perturb``, ``forward``, ``backward``, ``restore`` and ``step`` follow each other. ``noise`` lies
beside them, in a thread or a stream of its own, from the end of ``backward`` on.
"""

import os
from types import TracebackType

import torch
import torch.distributed as dist
from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity, profile, schedule

from rwp_dist.record.directory import RunDir

SKIPPED, WARM_UP, STEPS = 5, 2, 5
"""Steps of an attempt before the window, those whose trace is thrown away, those in the window."""

RANKS = 2
"""So many ranks write a trace, from rank 0 on: mixed methods have a clean and a perturbed one."""


class Profile:
    """The profiler of one attempt; does nothing without the setting ``profile``."""

    def __init__(self, run_dir: RunDir, wanted: bool) -> None:
        rank = dist.get_rank()
        self.path = run_dir.path / "profile" / f"rank-{rank}.json.gz"
        self._profiler: profile | None = None
        if not wanted or rank >= RANKS:
            return
        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)
        # Without a GPU its library complains of that on stderr.
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")
        self._profiler = profile(
            activities=activities,
            schedule=schedule(wait=SKIPPED, warmup=WARM_UP, active=STEPS, repeat=1),
            on_trace_ready=self._write,
            record_shapes=True,
            # Noise is drawn in another thread than the one that starts the profiler.
            experimental_config=_ExperimentalConfig(profile_all_threads=True),
        )

    def _write(self, profiler: profile) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(self.path))

    @property
    def outcome(self) -> str | None:
        """A sentence about what was written, or why nothing was; None without ``profile``."""
        if self._profiler is None:
            return None
        if self.path.exists():
            return f"Traces are in {self.path.parent}; open them at https://ui.perfetto.dev."
        return (
            f"profile: no trace, because this attempt took fewer than {SKIPPED + WARM_UP + 1} "
            "steps; raise schedule.steps."
        )

    def step_done(self) -> None:
        """A step has ended."""
        if self._profiler is not None:
            self._profiler.step()

    def __enter__(self) -> "Profile":
        if self._profiler is not None:
            self._profiler.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._profiler is not None:
            self._profiler.stop()
