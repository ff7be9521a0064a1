"""An exported folder has the run's network, for others to load."""

import json
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from support.small import same_bits
from torch import nn

from rwp_dist.cli import main
from rwp_dist.config import dump_settings, load_settings
from rwp_dist.evaluation.record import subject_of
from rwp_dist.export import command as command_module
from rwp_dist.export.card import model_card
from rwp_dist.export.loading import LIKE_TIMM, loading_script
from rwp_dist.record.directory import RunDir
from rwp_dist.record.identity import settings_identity
from rwp_dist.run.models import build_model

CLASSES, SIZE = 4, 32
RGB = (
    "data.channels=3",
    "data.mean=[0.485,0.456,0.406]",
    "data.std=[0.2]",
    f"data.image_size={SIZE}",
)

WITHOUT_US = """
import sys
class Blocked:
    def find_spec(self, name, *more):
        if name.partition(".")[0] in ("rwp_dist", "launcher"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
"""
LOGITS = """
import numpy, torch
torch.set_num_threads(1)
images = torch.from_numpy(numpy.load("images.npy"))
with torch.no_grad():
    numpy.save("logits.npy", model.eval()(images).numpy())
"""


def finished_run(folder, *overrides, average=None):
    """A run directory with one checkpoint of random weights and statistics, and its network."""
    places = (f"run.dir={folder}", "data.train=/secret/place", f"model.num_classes={CLASSES}")
    settings = load_settings(None, [*places, "run.device=cpu", *overrides])
    run_dir, model = RunDir(folder), build_model(settings)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.uniform_(0.5, 1.5)
    run_dir.create()
    run_dir.write_config(dump_settings(settings))
    run_dir.write_identity(settings_identity(settings, 2) | {"torch": "2.15", "commit": "abc"})
    summary = {"top1": 71.25, "loss": 0.5, "train_s": 90.0, "world_size": 2, "device": "cpu"}
    summary |= {"steps": 7}
    run_dir.write_summary(
        summary | {"changes": ["optimizer.lr: 0.1 before, 0.2 now (after step 3)"]}
    )
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    history = {"classes": {"num": CLASSES, "names": ["ant", "bee", "cat", "dog"], "place": ""}}
    state = {"format": 2, "step": 7, "optimizer": {}, "optimizer_groups": None}
    state |= {"weights": weights, "buffers": dict(model.named_buffers())}
    state["parts"] = {"history": history} | (average(weights) if average else {})
    torch.save(state, run_dir.checkpoints / "step-00000007.pt")
    return run_dir, settings, model.eval()


def export(run_dir, *options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch and onnx are about to change this and that
        return CliRunner().invoke(main, ["export", str(run_dir.path), *options])


def logits_elsewhere(folder, script):
    """What a script in the folder computes where this project cannot be imported."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    code = WITHOUT_US + script + LOGITS
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return np.load(folder / "logits.npy")


NETWORKS = ("resnet18", "cifar_resnet18", "vit_s_16", "plain_vit_s_16", "small_cnn")


@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_loaded_without_this_package_by_the_lines_of_its_card(tmp_path, name):
    run_dir, settings, model = finished_run(tmp_path / "run", f"model.name={name}", *RGB)
    result = export(run_dir)
    assert result.exit_code == 0, result.output
    folder = run_dir.path / "export"
    assert same_bits(load_file(folder / "model.safetensors"), model.state_dict())
    card = (folder / "README.md").read_text()
    script = card.partition("```python\n")[2].partition("```")[0]
    assert script == loading_script(settings)
    images = torch.randn(3, 3, SIZE, SIZE)
    np.save(folder / "images.npy", images.numpy())
    with torch.no_grad():
        wanted = model(images).numpy()
    assert np.array_equal(logits_elsewhere(folder, script), wanted)
    if name == "resnet18":
        by_timm = 'import timm\nmodel = timm.create_model("local-dir:.", pretrained=True).eval()\n'
        np.testing.assert_allclose(logits_elsewhere(folder, by_timm), wanted, atol=1e-5)


@pytest.mark.parametrize("name", ["timm:resnet10t", "timm:vit_tiny_patch16_224"])
def test_timm_loads_its_own_networks(tmp_path, name):
    run_dir, settings, model = finished_run(tmp_path / "run", f"model.name={name}", *RGB)
    result = export(run_dir)
    assert result.exit_code == 0, result.output
    folder, images = run_dir.path / "export", torch.randn(2, 3, SIZE, SIZE)
    np.save(folder / "images.npy", images.numpy())
    with torch.no_grad():
        wanted = model(images).numpy()
    assert np.array_equal(logits_elsewhere(folder, loading_script(settings)), wanted)
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] == name.removeprefix("timm:").partition(".")[0]
    assert config["label_names"][0] == "ant" and config["num_classes"] == CLASSES
    assert config["pretrained_cfg"]["std"] == [0.2, 0.2, 0.2]
    assert "license" not in config["pretrained_cfg"]


def test_names_of_torchvision_that_timm_is_said_to_have_are_the_same_there():
    import timm
    import torchvision

    for name in LIKE_TIMM:
        with torch.device("meta"):
            theirs = torchvision.models.get_model(name).state_dict()
            own = timm.create_model(name).state_dict()
        assert {k: v.shape for k, v in theirs.items()} == {k: v.shape for k, v in own.items()}


def test_timm_reads_from_it_how_images_are_made_ready_and_what_classes_are_called(tmp_path):
    import timm

    run_dir, _, _ = finished_run(tmp_path / "run", "model.name=resnet18", *RGB)
    out = tmp_path / "out"
    assert export(run_dir, f"--out={out}").exit_code == 0
    model = timm.create_model(f"local-dir:{out}", pretrained=True)
    config = timm.data.resolve_data_config(model=model)
    assert config["input_size"] == [3, SIZE, SIZE] and config["mean"] == [0.485, 0.456, 0.406]
    assert config["std"] == [0.2, 0.2, 0.2] and config["interpolation"] == "bilinear"
    assert config["crop_pct"] == 0.875 and model.num_classes == CLASSES
    assert json.loads((out / "config.json").read_text())["label_names"][1] == "bee"


@pytest.mark.parametrize("name", ["small_cnn", "resnet18"])
def test_onnx_gives_the_logits_of_torch_for_any_number_of_images(tmp_path, name):
    import onnxruntime

    run_dir, _, model = finished_run(tmp_path / "run", f"model.name={name}", *RGB)
    result = export(run_dir, "--onnx")
    assert result.exit_code == 0, result.output
    file = run_dir.path / "export" / "model.onnx"
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for count in (1, 5):
        images = torch.randn(count, 3, SIZE, SIZE)
        with torch.no_grad():
            wanted = model(images)
        (found,) = session.run(None, {"images": images.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), wanted, atol=1e-4, rtol=1e-4)
    assert "`model.onnx`" in (file.parent / "README.md").read_text()


class Odd(nn.Module):
    """Its output depends on values in a way that no graph has."""

    def __init__(self, num_classes):
        super().__init__()
        self.linear = nn.Linear(3 * SIZE * SIZE, num_classes)

    def forward(self, images):
        logits = self.linear(images.flatten(1))
        return logits if float(logits.sum()) > 0 else -logits


def odd(num_classes):
    return Odd(num_classes)


def test_what_onnx_cannot_express_is_a_sentence(tmp_path):
    name = f"model.name={__name__}:odd"
    run_dir, _, _ = finished_run(tmp_path / "run", name, *RGB)
    result = export(run_dir, "--onnx")
    assert result.exit_code == 1
    assert "--onnx: ONNX cannot express this network" in result.stderr
    assert not (run_dir.path / "export" / "model.onnx").exists()


# --- averages ---


def averaged(key, buffers):
    """The state of an average that is the result (``weights``) or is not (``beside``)."""

    def parts(weights):
        halves = {name: weight / 2 for name, weight in weights.items()}
        found = {"average": {"name": "ema", "count": 1, key: halves}}
        return found | {"evaluation": {"top1": 1.0, "buffers_beside": buffers}}

    return parts


@pytest.mark.parametrize(("key", "other"), [("weights", "trained"), ("beside", "average")])
def test_the_weights_that_are_not_the_result_have_a_file_of_their_own(tmp_path, key, other):
    buffers = {n: b + 1 for n, b in build_model(load_settings(None)).named_buffers()}
    result = "average" if other == "trained" else "trained"
    settings = ("average.name=ema", f"average.result={result}")
    run_dir, _, model = finished_run(tmp_path / "run", *settings, average=averaged(key, buffers))
    assert export(run_dir).exit_code == 0
    folder = run_dir.path / "export"
    result, beside = (load_file(folder / f"{name}.safetensors") for name in ("model", other))
    weights = {name: p.detach() for name, p in model.named_parameters()}
    halves = {name: weight / 2 for name, weight in weights.items()}
    own, others = (halves, weights) if other == "trained" else (weights, halves)
    assert same_bits(result, own | dict(model.named_buffers()))
    assert same_bits(beside, others | buffers)
    assert f"`{other}.safetensors`" in (folder / "README.md").read_text()


def test_without_their_statistics_the_other_weights_are_left_out_and_that_is_said(tmp_path):
    average = averaged("weights", {})
    run_dir, _, _ = finished_run(tmp_path / "run", "average.name=ema", average=average)
    result = export(run_dir)
    assert "was not evaluated" in result.stdout
    assert not (run_dir.path / "export" / "trained.safetensors").exists()


# --- the card and errors ---


def card_of(run_dir, settings, step=7):
    return model_card(run_dir, settings, run_dir.newest_checkpoint(), step, ["model.safetensors"])


def test_the_card_says_how_it_was_trained_and_names_no_place(tmp_path):
    more = ("method.sigma=0.25", "schedule.epochs=3", "average.name=ema", *RGB)
    run_dir, settings, _ = finished_run(tmp_path / "run", "model.name=resnet18", *more)
    card = card_of(run_dir, settings)
    assert card.startswith("---\nlibrary_name: timm\npipeline_tag: image-classification\n")
    for text in (
        *("`resnet18` for 4 classes", "method.sigma: 0.25", "schedule.epochs: 3.0"),
        *(
            "| top-1 % | 71.25 |",
            "7 updates of 64 images",
            "average.name: ema",
            "| torch | `2.15` |",
        ),
        *("optimizer.lr: 0.1 before, 0.2 now (after step 3)", "resized to 37 pixels"),
    ):
        assert text in card
    assert "/secret" not in card and str(tmp_path) not in card


@pytest.mark.parametrize(
    "other", [{}, {"crc32": "0"}, {"data": "x"}, {"data.eval_crop_ratio": "0.5"}]
)
def test_the_card_has_numbers_of_the_exported_checkpoint_alone(tmp_path, other):
    run_dir, settings, _ = finished_run(tmp_path / "run", *RGB)
    run_dir.write_identity(settings_identity(settings, 2) | {"data.val.id": "v"})
    subject = subject_of(run_dir, settings, run_dir.newest_checkpoint(), "v12") | other
    run_dir.write_measurement("evaluation", {"subject": subject, "numbers": {"top1": 33.5}})
    assert f"| top-1 % | {71.25 if other else 33.5} |" in card_of(run_dir, settings)
    earlier = card_of(run_dir, settings, step=5)
    assert "71.25" not in earlier and "90" not in earlier.partition("trained\n\n5 updates")[2][:60]
    assert ("This checkpoint was not evaluated" in earlier) == bool(other)


def test_the_card_says_what_the_run_began_from_and_learned_from(tmp_path):
    began = ("model.init=torchvision:DEFAULT", "model.name=resnet18", *RGB)
    run_dir, settings, _ = finished_run(tmp_path / "run", *began)
    ids = {"model.init.id": "1a2b", "loss.teacher.id": "3c4d"}
    run_dir.write_identity(settings_identity(settings, 2) | ids)
    card = card_of(run_dir, settings)
    assert "| model.init | `torchvision:DEFAULT` |" in card
    assert "| model.init.id | `1a2b` |" in card and "| loss.teacher.id | `3c4d` |" in card
    place = settings.model.model_copy(update={"init": "/secret/weights.pt"})
    card = card_of(run_dir, settings.model_copy(update={"model": place}))
    assert "/secret" not in card and "| model.init.id | `1a2b` |" in card
    plain, settings, _ = finished_run(tmp_path / "plain", *RGB)
    assert "model.init" not in (card := card_of(plain, settings)) and "teacher" not in card


def test_a_missing_package_is_a_sentence_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(command_module, "find_spec", lambda name: None)
    result = CliRunner().invoke(main, ["export", str(tmp_path), "--onnx"])
    assert result.exit_code == 2
    assert "safetensors, onnx, onnxscript, onnxruntime cannot be imported" in result.stderr
    assert "pip install 'rwp-dist[export]'" in result.stderr


def test_a_folder_without_a_run_is_a_sentence(tmp_path):
    result = CliRunner().invoke(main, ["export", str(tmp_path)])
    assert result.exit_code == 2 and "holds no run" in result.stderr


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("resnet50", "model = resnet50(num_classes=4)"),
        ("vit_b_16", "model = vit_b_16(num_classes=4, image_size=32)"),
        (
            "inception_v3",
            "model = inception_v3(num_classes=4, aux_logits=False, init_weights=False)",
        ),
        ("mine.nets:make", "from mine.nets import make"),
    ],
)
def test_lines_that_load_are_those_of_the_library(name, line):
    settings = load_settings(None, [f"model.name={name}", f"model.num_classes={CLASSES}", *RGB])
    assert line in loading_script(settings)
