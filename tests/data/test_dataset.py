"""Data that is not what it should be: one sentence that names the thing and the cure."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.faulty_server import FaultyServer
from support.pictures import encoded, picture
from support.small_shards import cache_in
from support.stream_sets import CLASSES, NUM, flip_bit, load, served, train_streams, write_set

from rwp_dist.base.errors import ConfigError, DataError
from rwp_dist.config import load_settings, split_batch
from rwp_dist.data.dataset import check_labels_again, load_manifest
from rwp_dist.data.format.manifest import JOINED_NAME, Manifest
from rwp_dist.data.image import Decoder, UndecodableImage
from rwp_dist.data.open import open_dataset, open_train
from rwp_dist.data.remote import Patience

QUICK = Patience(retries=2, backoff_s=0.005, stall_s=0.5)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("set") / "train")


@pytest.fixture
def folder(written, tmp_path):
    """A copy to damage."""
    return Path(shutil.copytree(written, tmp_path / "train"))


def tars(folder):
    return sorted(folder.glob("*.tar"))


def refused(*words, call, error=DataError, key=None):
    """The message, which is one or two sentences on one line and holds all words."""
    with pytest.raises(error) as caught:
        call()
    # Errors in settings are a list, with a head that says how many.
    message = str(caught.value).removeprefix("the defaults: 1 error\n  - ")
    assert "\n" not in message and message.endswith("."), message
    for word in words:
        assert word in message, (word, message)
    assert key is None or caught.value.key == key
    return message


def test_a_data_set_knows_every_sample(folder):
    dataset = load(folder)
    assert dataset.num_samples == NUM and len(dataset.shards) == len(tars(folder))
    shards, rows = dataset.locate(np.arange(NUM))
    assert (dataset.firsts[shards] + rows == np.arange(NUM)).all()
    assert (rows < dataset.counts[shards]).all()
    assert sorted(set(dataset.labels.tolist())) == list(range(CLASSES))


def test_a_shard_of_another_size_than_the_manifest_says_is_found_before_training(folder):
    with tars(folder)[2].open("ab") as file:
        file.write(bytes(512))
    refused(tars(folder)[2].name, "manifest says", "shards index", call=lambda: load(folder))


def test_a_shard_that_is_missing_is_found_before_training(folder):
    lost = tars(folder)[4]
    lost.unlink()
    refused(lost.name, "cannot be read", "shards index", call=lambda: load(folder))


def test_changed_bytes_of_the_same_size_are_bad_samples(folder):
    dataset = load(folder)
    flip_bit(folder, 0, 1, dataset.index)
    (stream,) = train_streams(load(folder), pad=True)
    steps = list(stream.steps(0, stream.steps_per_epoch))
    assert [r.sample for step in steps for r in step.bad] == [1]


def test_an_index_that_belongs_to_another_shard(folder):
    (folder / JOINED_NAME).unlink()
    first, second = sorted(folder.glob("*.npy"))[:2]
    shutil.copy(second, first)
    refused(first.name, "manifest", "shards index", call=lambda: load(folder))


def test_a_shard_without_an_index(folder):
    (folder / JOINED_NAME).unlink()
    index = sorted(folder.glob("*.npy"))[1]
    index.unlink()
    refused(index.name, "no index", f"shards index {folder}", call=lambda: load(folder))


@pytest.mark.parametrize("keep", [0.5, 0.999])
def test_a_manifest_that_was_cut(folder, keep):
    path = folder / "manifest.json"
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    refused("manifest.json", "shards index", call=lambda: load(folder))


def test_shards_whose_writing_was_broken_off_are_not_to_be_taken_for_all(folder):
    (folder / "manifest.json").unlink()
    sentence = refused(
        str(folder), "no manifest", "has not finished", call=lambda: load_manifest(str(folder))
    )
    assert "shards index" not in sentence


def test_shards_without_a_manifest(folder):
    (folder / "manifest.json").unlink()
    shutil.rmtree(folder / ".written")
    refused(
        str(folder),
        "no manifest",
        f"shards index {folder}",
        call=lambda: load_manifest(str(folder)),
    )


def test_two_shards_with_the_same_basename_whose_indexes_would_overwrite_each_other(folder):
    entries = load_manifest(str(folder)).shards
    twice = [
        type(entries[0])(**{**entries[0].__dict__, "name": f"http://127.0.0.1/{part}/s.tar"})
        for part in ("a", "b")
    ]
    refused("s.tar", "2 shards", "rename one", call=lambda: Manifest(CLASSES, None, tuple(twice)))


def test_two_sets_with_shards_of_the_same_basename_are_told_apart(tmp_path):
    folders = [
        write_set(tmp_path / name / "train", num=20, first=first)
        for name, first in (("a", 0), ("b", 50))
    ]
    files = {
        f"/{folder.parent.name}{path}": data
        for folder in folders
        for path, data in served(folder).items()
    }
    with FaultyServer(files) as server:
        cache = cache_in(tmp_path)
        remote = load(server.url("/a/train"), server.url("/b/train"), cache=cache)
        assert [s.url.rpartition("/")[2] for s in remote.shards].count("train-000000.tar") == 2
        (stream,) = train_streams(remote, cache=cache)
        (local,) = train_streams(load(*folders))
        for ours, theirs in zip(stream.steps(0, 3), local.steps(0, 3), strict=True):
            assert (ours.batches[0].images == theirs.batches[0].images).all()
            assert not ours.bad


@pytest.mark.parametrize("make", ["nothing", "empty", "file"])
def test_a_place_without_shards(tmp_path, make):
    place = tmp_path / "somewhere"
    if make == "empty":
        place.mkdir()
    elif make == "file":
        place.write_text("{}")
    named = "no manifest of shards" if make == "file" else str(place)
    refused(named, call=lambda: load_manifest(str(place)))


def test_digits_that_are_missing_may_be_those_of_either_side(tmp_path):
    place = tmp_path / "digits" / "test"
    cure = f"shards digits --out {tmp_path / 'digits'}`, or set data.val to where they are."
    refused("data.val: ", cure, call=lambda: load_manifest(str(place), key="data.val"))


@pytest.mark.parametrize(("key", "named"), [("data.train", "data.mix"), ("data.val", "data.val")])
def test_missing_data_are_said_of_the_setting_that_names_them(tmp_path, key, named):
    gone = tmp_path / "gone"
    chosen = load_settings(None, [f"data.mix={{{gone}: 1}}", f"data.val={gone}"])
    said = (f"{named}: {gone}", f"or set {named}")
    refused(*said, call=lambda: open_dataset(chosen, key), error=ConfigError, key=named)


def test_a_folder_that_may_not_be_read(folder, monkeypatch):
    # Not by its mode: root, as containers run, may read anything.
    def forbidden(path):
        raise PermissionError(13, os.strerror(13), str(path))

    monkeypatch.setattr(Path, "is_file", forbidden)
    refused(
        str(folder), "Permission denied", "permissions", call=lambda: load_manifest(str(folder))
    )


def test_a_label_outside_num_classes_is_named_with_its_sample(folder):
    message = refused(
        "its label 3",
        "0..2",
        "set model.num_classes to 5",
        call=lambda: load(folder, num_classes=3),
        key="model.num_classes",
        error=ConfigError,
    )
    assert "train-00000" in message and "sample " in message


def settings(folder, *more):
    return load_settings(
        None,
        [
            f"data.train={folder}",
            "data.image_size=16",
            "data.channels=3",
            f"model.num_classes={CLASSES}",
            "batch.global=24",
            *more,
        ],
    )


def test_lanes_or_ranks_that_do_not_divide_the_batch(folder):
    refused(
        "data.lanes: a batch of 24",
        "5 lanes",
        "set data.lanes to 1",
        call=lambda: settings(folder, "data.lanes=5"),
        error=ConfigError,
    )
    refused(
        "batch.global: 7 ranks",
        "24 samples",
        "set batch.global to 21 or 28",
        call=lambda: split_batch(settings(folder), 7),
        error=ConfigError,
    )


def test_a_batch_larger_than_the_data(folder):
    chosen = settings(folder, "batch.global=128", "batch.per_rank=128")
    refused(
        "batch.global: 128",
        f"{NUM} samples",
        "data.pad_last",
        call=lambda: open_train(chosen, split_batch(chosen, 1), 0),
        error=ConfigError,
        key="batch.global",
    )


# --- manifests and indexes over a bad connection ---


@pytest.mark.parametrize("fault", ["truncate", "flip", "shorter", "reset", "stall", 500, 503])
def test_a_manifest_that_comes_damaged_is_fetched_again(written, fault):
    with FaultyServer(served(written), {"/train/manifest.json": [fault]}) as server:
        manifest = load_manifest(server.url("/train"), QUICK)
    assert manifest.id == load_manifest(str(written)).id


def test_a_manifest_that_is_damaged_where_it_lies_is_not_asked_for_again_and_again(written):
    files = served(written)
    files["/train/manifest.json"] = files["/train/manifest.json"].replace(b'"num', b'"mum')
    with FaultyServer(files) as server:
        refused("manifest.json", call=lambda: load_manifest(server.url("/train"), QUICK))
        assert len(server.asked("/train/manifest.json")) == 2


@pytest.mark.parametrize("fault", [404, 503, "stall"])
def test_a_manifest_that_never_comes_ends_with_its_address(written, fault):
    with FaultyServer(served(written), always={"/train/manifest.json": fault}) as server:
        refused("train/manifest.json", call=lambda: load_manifest(server.url("/train"), QUICK))


@pytest.mark.parametrize("fault", ["truncate", "flip", "reset", "stall", 500])
def test_an_index_that_comes_damaged_is_fetched_again(written, tmp_path, fault):
    with FaultyServer(served(written)) as server:
        path = sorted(path for path in server.files if path.endswith(".npy"))[3]
        server.faults[path] = [fault]
        remote = load(server.url("/train"), cache=cache_in(tmp_path))
    assert (remote.index == load(written).index).all()


def test_the_settings_patience_and_cache_reach_all_that_is_fetched(written, tmp_path):
    with FaultyServer(served(written), always={"/train/manifest.json": "silent"}) as server:
        chosen = settings(server.url("/train"), "data.retries=0", "data.stall_s=0.2")
        refused("1 attempts", "no byte", call=lambda: open_dataset(chosen, "data.train"))
        server.always.clear()
        more = (f"data.cache_dir={tmp_path / 'here'}", "data.cache_gb=0.5")
        chosen = settings(server.url("/train"), *more)
        cache, dataset = open_dataset(chosen, "data.train")
    assert dataset.num_samples == NUM
    assert cache.max_bytes == 500_000_000
    assert len(list((tmp_path / "here/indexes").glob("*.samples"))) == 1


@pytest.mark.parametrize("name", ["ant/1.JPEG", "1.png"])
def test_a_folder_of_images_is_refused_with_the_command_that_packs_it(tmp_path, name):
    image = tmp_path / "images" / name
    image.parent.mkdir(parents=True)
    image.write_bytes(b"an image")
    folder = tmp_path / "images"
    with pytest.raises(DataError) as caught:
        load_manifest(str(folder), key="data.val")
    assert f"`rwp-dist shards write {folder} --out {folder}-shards`" in caught.value.cure
    assert caught.value.key == "data.val"


def test_labels_that_were_replaced_in_an_indexed_tar_are_refused(folder):
    tar = tars(folder)[0]
    check_labels_again(load(folder), 0, 1)
    data = tar.read_bytes()
    at = data.index(b".cls\0") // 512 * 512 + 512
    tar.write_bytes(data[:at] + (b"4" if data[at : at + 1] == b"3" else b"3") + data[at + 1 :])
    with pytest.raises(DataError, match="its labels are not those of its index"):
        check_labels_again(load(folder), 0, 1)
    check_labels_again(load(folder), 1, 2)  # another rank's part


def test_an_image_with_more_pixels_than_the_setting_is_bad():
    data = encoded(picture(20, 30))
    for tier in ("auto", "pil"):
        with pytest.raises(UndecodableImage, match="30x20 is too large"):
            Decoder(tier, 3, max_pixels=599).decode(data)
        assert Decoder(tier, 3, max_pixels=600).decode(data).shape == (20, 30, 3)


def test_a_pattern_of_shards_is_refused_with_the_command_that_makes_a_manifest():
    for source in ("http://127.0.0.1:9/s-{0..3}.tar", "here/s-{0..3}.tar"):
        refused("a pattern of shards", "shards index", call=lambda s=source: load_manifest(s))


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_missing_data_of_a_recipe_name_the_command_that_makes_them(name: str) -> None:
    with pytest.raises(DataError) as caught:
        load_manifest(f"data/{name}/train-that-is-missing")
    assert f"`rwp-dist shards {name} --out data/{name}`" in str(caught.value)
