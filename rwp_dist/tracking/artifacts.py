"""Files of a run that W&B keeps as artifacts: settings, the newest checkpoint, plain weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from rwp_dist.record.directory import RunDir

OF_A_FINISHED_RUN = frozenset({"checkpoint", "weights"})
"""The other artifact, the settings, is known from the start."""


@contextmanager
def artifact_files(kind: str, run_dir: RunDir) -> Iterator[list[Path]]:
    """The files of an artifact, which are there inside the ``with`` block.

    Args:
        kind: ``settings``, ``checkpoint`` or ``weights`` (``tracking.artifacts``).
        run_dir: of the run.

    Raises:
        RwpError: there is no checkpoint.
    """
    if kind == "settings":
        yield [
            path
            for path in (run_dir.config, run_dir.identity, run_dir.environment)
            if path.is_file()
        ]
    elif kind == "checkpoint":
        yield [run_dir.newest_checkpoint()]
    else:
        with TemporaryDirectory(dir=run_dir.path) as folder:
            yield [export_weights(run_dir.newest_checkpoint(), Path(folder) / "weights.pt")]


def export_weights(checkpoint: Path, out: Path) -> Path:
    """Write weights and buffers by name, which ``model.load_state_dict(torch.load(out))`` takes.

    They are those that were evaluated: an average of the weights, if the run has one.
    """
    import torch  # here, so that importing a sink imports no torch

    state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    weights = dict(state["weights"])
    for part in state["parts"].values():
        weights |= part.get("weights", {})
    torch.save(weights | state["buffers"], out)
    return out
