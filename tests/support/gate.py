"""A gate: processes wait where they import a module, until the test has done what it wants to.

A signal then meets them in a known state on a machine of any speed, so no test has to guess how
long a start takes.
"""

import os
from pathlib import Path

from support.until import until

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

    def arrived(self) -> int:
        """How many processes have come to the gate."""
        return len(list(self._folder.glob("here-*")))

    def wait(self, processes: int = 1, timeout_s: float = 60.0) -> None:
        """Return when so many processes have come to the gate."""
        until(lambda: self.arrived() >= processes, "a process at the gate", timeout_s)

    def open(self) -> None:
        """Let them go on."""
        (self._folder / "open").touch()
