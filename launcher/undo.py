"""Files of a submission that failed are as they were before it."""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from launcher.backends import NoAnswerError
from rwp_dist.base.errors import RwpError
from rwp_dist.base.files import write_bytes
from rwp_dist.record.lock import cannot_be_written


@contextmanager
def undone_on_failure(folder: Path, paths: Iterable[Path]) -> Iterator[None]:
    """Undo what a block that fails has written to ``paths``, which may be files or folders.

    New ones are removed, with the folders that were made for them; files have their content again.
    A block that a signal ends is left as it is, and so is a job that may have been accepted: both
    can be found again by what they have written.

    Args:
        folder: that of the run or the sweep, for the message.
        paths: all that the block writes.

    Raises:
        ConfigError: the folder is none that can be written to.
        RunDirError: the disk is full, or fails.
    """
    paths = list(paths)
    before = {path: path.read_bytes() if path.is_file() else None for path in _existing(paths)}
    made = {above for path in paths for above in path.parents if not above.exists()}
    try:
        yield
    except NoAnswerError:
        raise
    except (RwpError, OSError) as error:
        for path in paths:
            with suppress(OSError):
                _restore(path, before.get(path), path in before)
        for above in sorted(made, key=lambda made: len(made.parts), reverse=True):
            with suppress(OSError):
                above.rmdir()
        if isinstance(error, OSError):
            raise cannot_be_written(folder, error) from error
        raise


def _existing(paths: Iterable[Path]) -> Iterator[Path]:
    return (path for path in paths if path.exists())


def _restore(path: Path, content: bytes | None, existed: bool) -> None:
    if not existed:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    elif content is not None and (not path.is_file() or path.read_bytes() != content):
        write_bytes(path, content)
