"""``model.onnx``: the network for other runtimes, compared with torch's outputs."""

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from rwp_dist.base.errors import RwpError

TOLERANCE = 1e-4
"""Largest difference of a logit, relative to the largest of all where that is above 1."""


def write_onnx(model: nn.Module, shape: tuple[int, int, int], path: Path) -> float:
    """Write the network for batches of any size: ``images`` to ``logits``.

    Args:
        model: in evaluation mode.
        shape: of an image, ``(C, H, W)``.
        path: of the file.

    Returns:
        The largest difference from torch's logits.

    Raises:
        RwpError: the network cannot be written, or the file gives other outputs.
    """
    images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about itself
            torch.onnx.export(
                model,
                (images,),
                path,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: "batch"},),
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter raises many kinds
        said = str(error).strip().partition("\n")[0].rstrip(".")
        raise RwpError(
            f"ONNX cannot express this network ({type(error).__name__}: {said})",
            key="--onnx",
            cure="leave it out",
        ) from error
    difference = max(_difference(model, path, count, shape) for count in (1, 3))
    if not difference <= TOLERANCE:
        path.unlink()
        raise RwpError(
            f"model.onnx gives logits that are {difference:.1e} from torch's, above {TOLERANCE:g}",
            key="--onnx",
            cure="leave it out, or try other versions of torch and onnxruntime",
        )
    return difference


def _difference(model: nn.Module, path: Path, count: int, shape: tuple[int, int, int]) -> float:
    import onnxruntime

    images = torch.randn(count, *shape, generator=torch.Generator().manual_seed(count))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"images": images.numpy()})
    with torch.no_grad():
        wanted: Tensor = model(images)
    return float((torch.from_numpy(found) - wanted).abs().max() / wanted.abs().max().clamp(min=1.0))
