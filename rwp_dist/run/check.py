"""What of a run's settings cannot work, as far as this machine can tell without torch.

Settings alone and together, how ranks share a batch, DeepSpeed's configuration, the data, and last
a run directory that holds another run: all of it in one error.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rwp_dist.base.errors import ConfigError, RwpError, SettingsError
from rwp_dist.config import (
    Settings,
    Split,
    depends_on,
    read_settings,
    source_name,
    split_batch,
    unreachable_places,
)
from rwp_dist.data.check import DataCheck, Problem
from rwp_dist.engine.deepspeed.config import deepspeed_config
from rwp_dist.process.stages import stage
from rwp_dist.record.directory import RunDir
from rwp_dist.record.ending import write_refusal
from rwp_dist.record.identity import identity_in, settings_identity
from rwp_dist.record.resume import changes_of, continued_settings, goes_on_changed
from rwp_dist.record.sweep import other_runs
from rwp_dist.record.weights import init_file, teacher_file

BATCH = ("batch", "data.lanes", "deepspeed.zero_stage", "method.name", "method.antithetic")
"""Settings that decide how a batch is split."""


RUN_DIR = ("run",)
"""Settings that decide whether a run directory holds another run."""


class RunCheck:
    """Looks at runs that are to start on some number of ranks, and at each data set once."""

    def __init__(self, ranks: int, *, machine: bool = True, elsewhere: bool = False) -> None:
        """
        Args:
            ranks: of each run.
            machine: look also at data and run directories. False for one of several ranks: they
                may see other disks, and look together once they have a process group.
            elsewhere: the runs train on other machines (see ``DataCheck``).
        """
        self.ranks = ranks
        self._data = DataCheck(elsewhere=elsewhere) if machine else None

    @property
    def warnings(self) -> list[str]:
        """What may keep a run from starting, and is not known here."""
        return list(self._data.warnings) if self._data else []

    def load(self, config: str | Path | None, overrides: Sequence[str] = ()) -> Settings:
        """The settings of a run, if it can start.

        Raises:
            ConfigError: the file cannot be read.
            SettingsError: settings are wrong; its ``problems`` are all of them.
            DataError: of a run that trains elsewhere, shards that are here are damaged; or a disk
                of data does not answer.
            RunDirError: the disk of the run directory does not answer.
        """
        settings, errors = self.read(config, overrides)
        for error in errors:
            if self._data and not self._data.elsewhere:
                _keep(error, RunDir(str(settings.run.dir)))
            raise error
        return settings

    def read(
        self, config: str | Path | None, overrides: Sequence[str] = ()
    ) -> tuple[Settings, list[RwpError]]:
        """Settings with wrong values replaced by their defaults, and what ``load`` would raise.

        Raises:
            ConfigError: the file cannot be read, or a place cannot be looked at.
            DataError, RunDirError: the disk of a place does not answer.
        """
        settings, wrong = read_settings(config, overrides)
        self._reach([settings])
        return settings, self._errors(wrong + self.problems(settings, wrong), source_name(config))

    def errors(self, runs: Sequence[Settings], source: str) -> list[RwpError]:
        """Why the runs of a sweep cannot start, as ``load`` would raise it; each problem once.

        What only some of the runs have names one of them.

        Args:
            runs: their settings.
            source: what the message calls the sweep.
        """
        self._reach(runs)
        errors: dict[str, ConfigError] = {}
        names: dict[str, list[str]] = {}
        for settings in runs:
            found = [p.error for p in self._problems(settings, ()) if p.keys != RUN_DIR]
            for text, error in {str(error): error for error in found}.items():
                errors.setdefault(text, error)
                names.setdefault(text, []).append(str(settings.run.name))
        unique = [_of_runs(error, names[text], len(runs)) for text, error in errors.items()]
        other = other_runs(runs, self.ranks) if self._data else None
        return self._errors([*unique, *([other] if other else [])], source)

    def _reach(self, runs: Sequence[Settings]) -> None:
        """Look at the places of runs once, in bounded time, before anything else touches them.

        Raises:
            ConfigError, DataError, RunDirError: a place cannot be looked at.
        """
        with stage("waiting for a disk"):
            found = unreachable_places(runs, data=not (self._data and self._data.elsewhere))
        for error in found:
            raise error

    def _errors(self, problems: Sequence[ConfigError], source: str) -> list[RwpError]:
        errors: list[RwpError] = [SettingsError(source, problems)] if problems else []
        if self._data and self._data.elsewhere:  # a run that starts here finds them itself
            errors += self._data.damaged
        return errors

    def problems(self, settings: Settings, wrong: Sequence[ConfigError] = ()) -> list[ConfigError]:
        """What is wrong with a run, apart from what follows from its ``wrong`` settings."""
        found = self._problems(settings, wrong)
        return [problem.error for problem in found if not depends_on(problem.keys, wrong)]

    def _problems(self, settings: Settings, wrong: Sequence[ConfigError]) -> Iterator[Problem]:
        split: Split | None = None
        try:
            split = split_batch(settings, self.ranks)
        except ConfigError as error:
            yield Problem(error, BATCH)
        try:
            deepspeed_config(settings, split or Split(self.ranks, 1, 1))
        except SettingsError as error:
            yield from (Problem(problem, ("deepspeed",)) for problem in error.problems)
        if self._data is None:
            return
        run_dir = RunDir(str(settings.run.dir))
        finished = run_dir.summary.is_file() and not self._data.elsewhere
        finished = finished and not goes_on_changed(run_dir, settings)
        if not finished:  # else its data may be gone by now
            for find, section in ((init_file, "model"), (teacher_file, "loss")):
                try:
                    if not self._data.elsewhere:
                        find(settings)
                except ConfigError as error:
                    yield Problem(error, (section,))
            with stage("looking at the data"):
                yield from list(self._data.problems(settings, split))
        try:
            data = {} if finished else self._data.identity()
            _refuse_another_run(run_dir, settings, self.ranks, data, wrong)
        except ConfigError as error:
            yield Problem(error, RUN_DIR)


def _of_runs(error: ConfigError, names: Sequence[str], total: int) -> ConfigError:
    """The error of the named runs of a sweep that has so many."""
    if len(names) == total:
        return error
    where = names[0] if len(names) == 1 else f"{len(names)} of {total} runs, such as {names[0]}"
    return ConfigError(f"{error.problem} (in {where})", key=error.key, cure=error.cure)


def _keep(error: RwpError, run_dir: RunDir) -> None:
    """Say in the run directory, unless that itself is in question, why the run does not go on."""
    problems = error.problems if isinstance(error, SettingsError) else ()
    if not (depends_on(["run"], problems) or run_dir.summary.is_file()):
        write_refusal(run_dir, error)


def _refuse_another_run(
    run_dir: RunDir,
    settings: Settings,
    ranks: int,
    data: dict[str, str],
    wrong: Sequence[ConfigError],
) -> None:
    """Refuse a directory that holds a run with other settings or data.

    Raises:
        ConfigError: so it is, or its settings cannot be read.
    """
    now = settings_identity(continued_settings(run_dir, settings), ranks) | data
    before = identity_in(run_dir) or {}
    # What is wrong is told already, and its default is nothing that somebody asked for.
    changes_of(run_dir, now | {key: before[key] for key in before if depends_on([key], wrong)})
