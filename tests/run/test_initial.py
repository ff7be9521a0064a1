"""Weights to start from: every kind of place, names of others, another head or resolution."""

import json
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.checkpoints import save
from support.ranks import run_ranks
from support.small import (
    ENGINES,
    run_all,
    same_bits,
    small_net,
    small_parts,
    small_settings,
)
from torchvision.models import resnet18

from rwp_dist.base.errors import ConfigError
from rwp_dist.config import load_settings
from rwp_dist.record.directory import RunDir
from rwp_dist.run.fitting import fit_weights
from rwp_dist.run.initial import begin_from_weights, find_weights

timm = pytest.importorskip("timm")


def settings_of(place, *more):
    return small_settings(f"model.init={place}", *more)


def read(place, *more):
    return find_weights(settings_of(place, *more)).read()


def state_of(net):
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def under(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


# --- places ---


@pytest.mark.parametrize(
    "written",
    [
        lambda state, path: torch.save(state, path),
        lambda state, path: torch.save(OrderedDict(state), path),
        lambda state, path: torch.save({"state_dict": state, "epoch": 3}, path),
        lambda state, path: torch.save(
            {"model": {f"module.{n}": t for n, t in state.items()}}, path
        ),
        lambda state, path: torch.save({f"_orig_mod.{n}": t for n, t in state.items()}, path),
        lambda state, path: torch.save({f"module.model.{n}": t for n, t in state.items()}, path),
        lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
        lambda state, path: save_file(state, path.with_suffix(".safetensors")),
    ],
    ids=["state", "ordered", "nested", "ddp", "compiled", "wrapped", "old", "safetensors"],
)
def test_files_that_others_write(written, tmp_path):
    other, net = small_net(seed=5), small_net()
    written(state_of(other), tmp_path / "weights.pth")
    (path,) = tmp_path.iterdir()
    fitted = fit_weights(net, read(path))
    assert same_bits(state_of(net), state_of(other))
    assert (fitted.new, fitted.unused, fitted.interpolated) == ([], [], [])


def saved_run(folder, average):
    """A run's directory; an average of its weights, if it has one, is 7 everywhere."""
    settings = small_settings(f"run.dir={folder}", steps=2)
    run_dir = RunDir(folder)
    run_dir.create()
    with small_parts(settings) as parts:
        run_all(parts)
        path = save(run_dir.checkpoints, parts, 2)
        weights = parts.engine.full_weights()
    if average:
        state = torch.load(path, weights_only=True)
        weights = {name: torch.full_like(w, 7.0) for name, w in weights.items()}
        state["parts"]["average"] = {"weights": weights}
        torch.save(state, path)
    return weights


@pytest.mark.parametrize("average", [False, True])
def test_another_run_and_a_checkpoint_of_it(average, tmp_path):
    (weights,) = run_ranks(saved_run, 1, tmp_path, average)
    for place in (tmp_path, tmp_path / "checkpoints" / "step-00000002.pt"):
        net = small_net(seed=5)
        fitted = fit_weights(net, read(place))
        assert same_bits({n: p.detach() for n, p in net.named_parameters()}, weights)
        assert int(net.bn1.num_batches_tracked) > 0 and not fitted.new


RGB = ("data.channels=3", "data.image_size=64")


def test_weights_of_torchvision(tmp_path, monkeypatch):
    """From its cache, as they are there after the first download."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    state = resnet18(num_classes=1000).state_dict()
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(state, cache / "resnet18-f37072fd.pth")
    for name in ("DEFAULT", "IMAGENET1K_V1"):
        found = find_weights(settings_of(f"torchvision:{name}", "model.name=resnet18", *RGB))
        assert found.id == "resnet18-f37072fd.pth"
        assert found.pixels == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        net = resnet18(num_classes=3)
        fitted = fit_weights(net, found.read())
        assert fitted.new == ["fc.weight", "fc.bias"] == fitted.unused
        assert torch.equal(net.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])


def test_weights_of_timm(monkeypatch):
    state = timm.create_model("test_vit", num_classes=1000).state_dict()
    loader = "timm.models._builder.load_state_dict_from_hf"
    monkeypatch.setattr(loader, lambda *args, **kwargs: dict(state))
    found = find_weights(settings_of("timm:test_vit"))
    assert found.id == "test_vit.r160_in1k" and found.pixels == ((0.5,) * 3, (0.5,) * 3)
    before = torch.get_rng_state()
    net = timm.create_model("test_vit", num_classes=3, in_chans=1, img_size=64)
    torch.set_rng_state(before)
    fitted = fit_weights(net, found.read())
    assert torch.equal(torch.get_rng_state(), before)
    assert fitted.interpolated == ["pos_embed"] and fitted.new == ["head.weight", "head.bias"]
    grey = state["patch_embed.proj.weight"].sum(1, keepdim=True)
    torch.testing.assert_close(net.patch_embed.proj.weight.detach(), grey)


def test_pixels_that_the_weights_do_not_know_are_said(tmp_path, monkeypatch):
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(resnet18(num_classes=1000).state_dict(), cache / "resnet18-f37072fd.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    own = "data.mean=[0.485,0.456,0.406]", "data.std=[0.229,0.224,0.225]"
    for more, notes in ((own, ["model.init"]), ((), ["model.init", "data.mean"])):
        settings = settings_of("torchvision:DEFAULT", "model.name=resnet18", *RGB, *more)
        found = begin_from_weights(resnet18(num_classes=3), settings, None)
        assert [note.key for note in found] == notes


def raises(error):
    def fail(*args, **kwargs):
        raise error

    return fail


def refused(make, words, key="model.init"):
    with pytest.raises(ConfigError, match=words) as caught:
        make()
    error = caught.value
    assert error.key == key and error.cure and "\n" not in str(error)
    return error


def test_weights_that_cannot_be_downloaded_are_one_sentence(monkeypatch):
    failed = raises(ConnectionError("no route\nto host"))
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", failed)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", failed)
    for place in ("timm:test_vit", "torchvision:DEFAULT"):
        found = find_weights(settings_of(place, "model.name=resnet18", *RGB))
        refused(found.read, r"cannot be had \(ConnectionError: no route\)")


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("nothing.pt", "nothing.pt is not there"),
        ("empty", "there is no checkpoint yet"),
        ("garbage.pt", "garbage.pt cannot be read by torch|holds more than"),
        ("empty.pth", "empty.pth cannot be read by torch"),
        ("garbage.safetensors", "cannot be read as safetensors"),
        ("code.pt", "or holds more than tensors and numbers"),
        ("list.pt", "most of SmallNet is not in it"),
        ("torn.pt", "cannot be read by torch"),
        ("torchvision:DEFAULT", "torchvision has no weights for small_cnn"),
        ("timm:no_such_vit", "timm has no model 'no_such_vit'"),
        ("timm:vit_tiny_patch16_224.nope", "timm has no model"),
        ("timm:vit_base_patch16_18x2_224", "timm has no weights of"),
    ],
)
def test_places_without_weights_are_refused_with_the_cure(place, words, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "garbage.pt").write_bytes(b"no weights" * 9)
    (tmp_path / "garbage.safetensors").write_bytes(b"no weights" * 9)
    (tmp_path / "empty.pth").touch()
    torch.save({"model": small_net()}, tmp_path / "code.pt")
    torch.save([torch.ones(3)], tmp_path / "list.pt")
    torch.save(state_of(small_net()), tmp_path / "torn.pt")
    whole = (tmp_path / "torn.pt").read_bytes()
    (tmp_path / "torn.pt").write_bytes(whole[: len(whole) // 2])
    path = place if place.startswith(("timm:", "torchvision:")) else tmp_path / place
    refused(lambda: fit_weights(small_net(), read(path)), words)


def test_names_of_weights_that_there_are_not_name_those_that_there_are():
    settings = settings_of("torchvision:IMAGENET1K_V7", "model.name=resnet18", *RGB)
    assert "DEFAULT, IMAGENET1K_V1" in refused(lambda: find_weights(settings), "V7").cure or (
        "IMAGENET1K_V1" in refused(lambda: find_weights(settings), "V7").cure
    )


# --- runs ---


def weights_at_the_start(place, cases):
    """On rank 0 from a file; the other rank has no such file."""
    import torch.distributed as dist

    place = place if dist.get_rank() == 0 else Path("/nowhere") / place.name
    found = []
    for case in cases:
        settings = small_settings(f"model.init={place}", "run.dir=/nowhere/run", case)
        with small_parts(settings, small_net(seed=dist.get_rank())) as parts:
            said = [str(note) for note in parts.notes]
            found.append((parts.engine.full_weights(), dict(parts.engine.module.named_buffers())))
    return found, said


def test_all_ranks_begin_with_what_rank_0_has_read(tmp_path):
    other = small_net(seed=5)
    other.bn2.running_mean.fill_(3.0)
    torch.save(other.state_dict(), tmp_path / "weights.pt")
    ranks = run_ranks(weights_at_the_start, 2, tmp_path / "weights.pt", ENGINES)
    for found, _ in ranks:
        for weights, buffers in found:
            assert same_bits(weights, {n: p.detach() for n, p in other.named_parameters()})
            assert same_bits(buffers, dict(other.named_buffers()))
    assert "16 of 16 tensors are taken" in ranks[0][1][0]


def begun(place, folder):
    with small_parts(small_settings(f"model.init={place}", f"run.dir={folder}")):
        pass


def test_a_file_that_does_not_fit_ends_all_ranks_with_one_sentence(tmp_path):
    torch.save({"other": torch.ones(3)}, tmp_path / "weights.pt")
    for name, words in (("weights.pt", "most of SmallNet"), ("gone.pt", "is not there")):
        with pytest.raises(ConfigError, match=words) as caught:
            run_ranks(begun, 2, tmp_path / name, tmp_path / "run")
        assert caught.value.key == "model.init"
        assert str(tmp_path / name) in str(caught.value)


def test_what_a_run_began_from_is_recorded(tmp_path):
    torch.save(small_net(seed=5).state_dict(), tmp_path / "weights.pt")
    settings = settings_of(tmp_path / "weights.pt", f"run.dir={tmp_path}")
    (note,) = begin_from_weights(small_net(), settings, None)
    assert str(tmp_path / "weights.pt") in str(note)
    record = json.loads((tmp_path / "initial.json").read_text())
    assert record["id"] == find_weights(settings).id and len(record["taken"]) == 16
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-00000001.pt").touch()
    (tmp_path / "weights.pt").unlink()
    assert begin_from_weights(small_net(), settings, None) == [], "it goes on from its checkpoint"


def test_a_place_is_a_path_from_everywhere_and_a_name_of_a_library_is_none():
    from rwp_dist.config import with_absolute_paths

    for name in ("torchvision:DEFAULT", "timm:test_vit"):
        assert with_absolute_paths(settings_of(name)).model.init == name
    assert Path(with_absolute_paths(settings_of("runs/a")).model.init) == Path.cwd() / "runs/a"


def test_no_run_needs_a_package_that_it_does_not_name(monkeypatch):
    import builtins

    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] in ("timm", "safetensors"):
            raise ImportError(f"No module named {name!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    error = refused(lambda: find_weights(settings_of("timm:test_vit")), "timm cannot be imported")
    assert "rwp-dist[timm]" in error.cure
    from rwp_dist.run.models import build_model

    named = load_settings(None, ["model.name=timm:test_vit", "data.image_size=64"])
    refused(lambda: build_model(named), "timm cannot be imported", key="model.name")
