"""The model card: what the network is, how to load it, and how it was trained."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from rwp_dist.base.text import duration
from rwp_dist.base.urls import shown_tree
from rwp_dist.config import LIBRARIES, Affects, Settings, affects, unused_keys, values_by_key
from rwp_dist.export.hub_config import preprocessing
from rwp_dist.export.loading import is_in_timm, loading_script
from rwp_dist.record.directory import RunDir
from rwp_dist.record.weights import NO_TEACHER

TOLD = {Affects.RESULT, Affects.ROUNDING, Affects.SPLIT}
"""What settings of the card affect: none names a place of the machine that trained."""

RESULTS = {
    "top1": "top-1 %",
    "top5": "top-5 %",
    "loss": "NLL",
    "nll": "NLL",
    "ece": "calibration error %",
    "trained_top1": "top-1 % of the trained weights",
    "average_top1": "top-1 % of the average of the weights",
}
"""Numbers of a summary or an evaluation that the card has, and what it calls them."""


def model_card(
    run_dir: RunDir, settings: Settings, checkpoint: Path, step: int, files: Sequence[str]
) -> str:
    """The content of ``README.md``.

    Args:
        run_dir: of the run.
        settings: of the run.
        checkpoint: what is exported.
        step: its updates.
        files: of the exported folder.
    """
    name = str(settings.run.name or run_dir.path.name)
    head = {
        "library_name": "timm" if is_in_timm(settings) else "pytorch",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "rwp-dist", settings.method.name],
    }
    sections = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {name}",
        f"`{settings.model.name}` for {settings.model.num_classes:,} classes, trained with "
        f"`{settings.method.name}` by rwp-dist, which is about random weight perturbation "
        "([Li et al., 2024](https://arxiv.org/abs/2404.00357)).",
        "## Load it\n\nIn this folder:",
        f"```python\n{loading_script(settings)}```",
        _preprocessing(settings),
        *_files(settings, files),
        "## Results",
        _table(_results(run_dir, settings, checkpoint, step))
        or "This checkpoint was not evaluated; it has no result yet.",
        "## How it was trained",
        _training(run_dir, settings, step),
        f"Settings that are not the defaults:\n\n```yaml\n{_settings(settings)}```",
        _table(_origin(run_dir, settings)),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _preprocessing(settings: Settings) -> str:
    p = preprocessing(settings)
    size, shorter = p["input_size"][1], round(p["input_size"][1] / p["crop_pct"])
    colours = "RGB" if settings.data.channels == 3 else "grey"
    return (
        f"It takes {colours} images `[B, {', '.join(map(str, p['input_size']))}]`: the shorter "
        f"side is resized to {shorter} pixels (bilinear, with antialiasing) and the centre of "
        f"{size} cropped; values in [0, 1] less the mean {p['mean']}, divided by {p['std']}."
    )


def _files(settings: Settings, files: Sequence[str]) -> list[str]:
    """What there is beside ``model.safetensors``."""
    average = settings.average.name.upper()
    lines = {
        "trained.safetensors": f"`model.safetensors` has an average of the weights ({average}); "
        "`trained.safetensors` has the trained weights, by the same names.",
        "average.safetensors": "`model.safetensors` has the trained weights; "
        f"`average.safetensors` has an average of them ({average}), by the same names.",
        "model.onnx": "`model.onnx` is the network of `model.safetensors`, for any number of "
        "images: `images` in, `logits` out. Its outputs were compared with PyTorch's.",
    }
    return [text for file, text in lines.items() if file in files]


def _results(
    run_dir: RunDir, settings: Settings, checkpoint: Path, step: int
) -> list[tuple[str, str]]:
    """Of the evaluation at the end, and of ``rwp-dist evaluate``, which is newer.

    Only those of this checkpoint, on the run's own data and with the run's own settings.
    """
    from rwp_dist.evaluation.record import NAME, subject_of  # it loads torch

    own = str((run_dir.read_identity() or {}).get("data.val.id"))
    measured = run_dir.read_measurement(NAME) or {}
    subject, numbers = measured.get("subject") or {}, _summary(run_dir, step)
    data = str(subject.get("data"))
    is_own = data.startswith(own)  # an identity has the first digits
    if is_own and subject == subject_of(run_dir, settings, checkpoint, data):
        numbers = numbers | measured["numbers"]
    found = {RESULTS[key]: f"{numbers[key]:.4g}" for key in RESULTS if numbers.get(key) is not None}
    return list(found.items())


def _summary(run_dir: RunDir, step: int) -> dict[str, Any]:
    """That of the finished run; empty if the checkpoint is of another step."""
    summary = run_dir.read_summary() or {}
    return summary if summary.get("steps") == step else {}


def _training(run_dir: RunDir, settings: Settings, step: int) -> str:
    summary = _summary(run_dir, step)
    text = f"{step:,} updates of {settings.batch.global_:,} images"
    if summary.get("train_s"):
        ranks = summary.get("world_size", 1)
        text += f", {duration(summary['train_s'])} on {ranks} {summary.get('device', '')} ranks"
    changed = "".join(f"\n- {change}" for change in summary.get("changes", ()))
    return f"{text}." + (f" Changed on the way:\n{changed}" if changed else "")


def _settings(settings: Settings) -> str:
    """Those that count and are not the defaults, as ``section.key: value``."""
    values, defaults = values_by_key(settings), values_by_key(Settings())
    unused = unused_keys(settings)
    told = {
        key: value
        for key, value in values.items()
        if affects(key) in TOLD and value != defaults[key] and key not in unused
    }
    return yaml.safe_dump(shown_tree(told), sort_keys=False, width=96)


def _origin(run_dir: RunDir, settings: Settings) -> list[tuple[str, str]]:
    """Ids of the data and of the weights that the run began from or learned from, and versions.

    They are those of ``identity.json``. Weights that a library has are named, too.
    """
    identity = run_dir.read_identity() or {}
    init, known = settings.model.init, dict[str, Any]()
    if init is not None:
        named = {"model.init": init} if str(init).startswith(LIBRARIES) else {}
        known |= named | {"model.init.id": identity.get("model.init.id")}
    if identity.get("loss.teacher.id") != NO_TEACHER:
        known["loss.teacher.id"] = identity.get("loss.teacher.id")
    keys = ("ranks", "rwp-dist", "commit", "torch", "deepspeed")
    data = {key: identity.get(key) for key in ("data.train.id", "data.val.id")}
    rows = data | known | {key: identity.get(key) for key in keys}
    return [(key, f"`{value}`") for key, value in rows.items() if value is not None]


def _table(rows: Sequence[tuple[str, str]]) -> str:
    lines = [f"| {name} | {value} |" for name, value in rows]
    return "\n".join(["| | |", "|---|---|", *lines]) if rows else ""
