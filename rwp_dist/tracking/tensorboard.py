"""TensorBoard, an optional sink: ``tensorboard --logdir runs`` shows all runs below a folder."""

from collections.abc import Mapping
from typing import Any

from rwp_dist.base.errors import ConfigError
from rwp_dist.tracking.columns import named
from rwp_dist.tracking.sink import RunInfo, Sink


class TensorBoard(Sink):
    """Writes each column as a scalar to ``tensorboard/`` in the run directory.

    A resumed run has each step once: TensorBoard hides what an interrupted attempt wrote after
    the checkpoint. A record is on disk when ``log`` returns.
    """

    name = "TensorBoard"
    optional = True

    def __init__(self, writer: Any) -> None:
        """``writer``: a ``SummaryWriter``."""
        self._writer = writer

    @classmethod
    def open(cls, run: RunInfo) -> "TensorBoard | None":
        """
        Raises:
            ConfigError: the package is not installed.
        """
        if not run.settings.tracking.tensorboard:
            return None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ConfigError(
                "TensorBoard is not installed",
                key="tracking.tensorboard",
                cure="run `pip install 'rwp-dist[tensorboard]'`, or set it to false",
            ) from None
        folder = run.run_dir.path / "tensorboard"
        return cls(SummaryWriter(str(folder), purge_step=run.first_step + 1))

    def log(self, kind: str, record: Mapping[str, Any]) -> None:
        for name, value in named(kind, record).items():
            self._writer.add_scalar(name, value, record["step"])
        self._writer.flush()

    def close(self, state: str) -> None:
        self._writer.close()
