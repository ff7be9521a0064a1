"""``rwp-dist export``: from a checkpoint to a folder."""

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from rwp_dist.base.errors import ConfigError, RwpError
from rwp_dist.base.files import write_text
from rwp_dist.config import Settings
from rwp_dist.export.card import model_card
from rwp_dist.export.hub_config import hub_config
from rwp_dist.record.directory import RunDir

OF_ONNX = ("onnx", "onnxscript", "onnxruntime")


def check_packages(*, onnx: bool) -> None:
    """Refuse to begin without the packages that are needed.

    Raises:
        ConfigError: one is not installed.
    """
    needed = ("safetensors", *(OF_ONNX if onnx else ()))
    if missing := [name for name in needed if find_spec(name) is None]:
        raise ConfigError(
            f"{', '.join(missing)} cannot be imported", cure="pip install 'rwp-dist[export]'"
        )


def export_run(
    run_dir: RunDir, settings: Settings, checkpoint: Path, out: Path, *, onnx: bool
) -> Iterator[str]:
    """Write the folder; yields a line for each file, and how to load the network.

    Args:
        run_dir: of the run.
        settings: of the run.
        checkpoint: one of its files.
        out: the folder, made if it is missing; files in it are replaced.
        onnx: write ``model.onnx`` too.

    Raises:
        CheckpointError: the file is not a checkpoint, or not one of this network.
        RwpError: the folder cannot be written, or ONNX cannot express the network.
    """
    import torch

    from rwp_dist.export.networks import result_network, write_safetensors
    from rwp_dist.export.onnx_model import write_onnx
    from rwp_dist.run.checkpoint import read_checkpoint
    from rwp_dist.run.evaluate import load_beside

    model, state = result_network(settings, checkpoint), read_checkpoint(checkpoint)
    beside = load_beside(settings, checkpoint, torch.device("cpu"))
    files = {"model": model.state_dict()}
    files |= {name: network.state_dict() for name, network in beside.items()}
    if not beside and settings.average.name != "none":
        yield (
            f"{checkpoint.name} was not evaluated, so it has the statistics of its result alone: "
            "only those weights are exported."
        )
    classes = (state["parts"].get("history", {}).get("classes") or {}).get("names")
    written = [f"{name}.safetensors" for name in files]
    try:
        out.mkdir(parents=True, exist_ok=True)
        for stale in ("trained.safetensors", "average.safetensors", "model.onnx"):
            (out / stale).unlink(missing_ok=True)  # of an earlier export
        for name, own in files.items():
            write_safetensors(own, out / f"{name}.safetensors")
            yield f"{out / name}.safetensors: {sum(t.nbytes for t in own.values()):,} bytes"
        config = json.dumps(hub_config(settings, model, classes), indent=2, ensure_ascii=False)
        write_text(out / "config.json", f"{config}\n")
        yield f"{out / 'config.json'}"
        if onnx:
            shape = (settings.data.channels, settings.eval_size, settings.eval_size)
            difference = write_onnx(model, shape, out / "model.onnx")
            written.append("model.onnx")
            yield f"{out / 'model.onnx'}: logits within {difference:.1e} of torch's"
        card = model_card(run_dir, settings, checkpoint, state["step"], written)
        write_text(out / "README.md", card)
    except OSError as error:
        raise RwpError(
            f"{out}: cannot be written ({error.strerror or error})", cure="choose another --out"
        ) from None
    yield f"{out / 'README.md'}: the model card, with the lines that load it"
