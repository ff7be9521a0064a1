"""A gate: processes wait where they import a module, until the test has done what it wants to.

A signal then meets them in a known state on a machine of any speed, so no test has to guess how
long a start takes.
"""

import os
import time
from pathlib import Path

CODE = """
import os, pathlib, sys, time
class Gate:
    def find_spec(self, name, path=None, target=None):
        if name != {module!r} or {ranks_only} and "RANK" not in os.environ:
            return
        sys.meta_path.remove(self)
        folder = pathlib.Path({folder!r})
        (folder / f"here-{{os.getpid()}}").touch()
        end = time.monotonic() + 120  # of a test that failed
        while not (folder / "open").exists() and time.monotonic() < end:
            time.sleep(0.01)
sys.meta_path.insert(0, Gate())
"""


class Gate:
    """Stops each process that was started with ``environment`` when it first imports ``module``.

    Args:
        folder: an empty folder for the gate's files.
        module: such as "torch".
        ranks_only: only processes that torchrun has started wait.
    """

    def __init__(self, folder: Path, module: str, *, ranks_only: bool = False) -> None:
        self._folder = folder
        folder.mkdir()
        code = CODE.format(module=module, ranks_only=ranks_only, folder=str(folder))
        (folder / "sitecustomize.py").write_text(code)
        root = Path(__file__).parents[2]
        self.environment = os.environ | {"PYTHONPATH": f"{folder}:{root}"}

    def wait(self, processes: int = 1, timeout_s: float = 60.0) -> None:
        """Return when so many processes have come to the gate."""
        end = time.monotonic() + timeout_s
        while len(list(self._folder.glob("here-*"))) < processes:
            assert time.monotonic() < end, "nobody came to the gate"
            time.sleep(0.01)

    def open(self) -> None:
        """Let them go on."""
        (self._folder / "open").touch()
