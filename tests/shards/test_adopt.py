"""Shards of others are trained from at once, by their counts alone."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.faulty_server import FaultyServer
from support.shard_files import run
from support.small_shards import cache_in
from support.stream_sets import CLASSES, NUM, digest, train_streams, write_set

from rwp_dist.base.errors import ConfigError, DataError, RwpError
from rwp_dist.config import load_settings
from rwp_dist.data import lazy_indexes
from rwp_dist.data.chosen import choose_selection
from rwp_dist.data.dataset import load_dataset
from rwp_dist.data.format.manifest import Manifest
from rwp_dist.data.format.sample import Fields
from rwp_dist.data.remote import NoAttemptsLeftError
from rwp_dist.shards import collection, location
from rwp_dist.shards.adopt import adopt_shards
from rwp_dist.shards.index import index_shards


@pytest.fixture(scope="module")
def indexed(tmp_path_factory):
    """A data set as this project writes it."""
    return write_set(tmp_path_factory.mktemp("set") / "train")


@pytest.fixture
def others(indexed, tmp_path):
    """Its tars alone."""
    folder = tmp_path / "others"
    folder.mkdir()
    for tar in indexed.glob("*.tar"):
        shutil.copy(tar, folder)
    return folder


def counts_of(indexed):
    return {shard.name: shard.num_samples for shard in Manifest.load(indexed).shards}


def timm(counts, sizes):
    split = {"name": "train", "num_samples": sum(counts.values())}
    lists = {"filenames": list(counts), "shard_lengths": list(counts.values())}
    return {"_info.json": {"name": "x", "splits": {"train": split | lists}}}


def wids(counts, sizes):
    shards = [{"url": n, "nsamples": c, "filesize": sizes[n]} for n, c in counts.items()]
    return {"index.json": {"__kind__": "wids-shard-index-v1", "shardlist": shards}}


def open_clip(counts, sizes):
    return {"sizes.json": counts}


def img2dataset(counts, sizes):
    return {
        f"{name.removesuffix('.tar')}_stats.json": {"count": count + 3, "successes": count}
        for name, count in counts.items()
    }


KINDS = [timm, wids, open_clip, img2dataset]


def say(folder, kind, counts):
    """Put the files that say the counts beside the shards."""
    sizes = {name: (folder / name).stat().st_size for name in counts}
    for name, content in kind(counts, sizes).items():
        (folder / name).write_text(json.dumps(content))


def adopted(folder, tmp_path, num_classes=CLASSES, cache=None):
    return load_dataset([Manifest.load(folder)], num_classes, cache, tmp_path / "indexes")


def epoch(dataset, workers=0, cache=None):
    (stream,) = train_streams(dataset, workers=workers, cache=cache)
    return [digest([step]) for step in stream.steps(0, stream.steps_per_epoch)]


@pytest.mark.parametrize("kind", KINDS)
def test_adopted_shards_give_the_batches_of_indexed_ones(kind, indexed, others, tmp_path):
    say(others, kind, counts_of(indexed))
    manifest, _ = adopt_shards([str(others)])
    assert manifest.num_samples == NUM and not list(others.glob("*.npy"))
    wanted = epoch(load_dataset([Manifest.load(indexed)], CLASSES, None))
    assert epoch(adopted(others, tmp_path)) == wanted
    # Every shard was indexed once; the indexes lie beside the shards and are used again.
    indexes = {path: path.stat().st_mtime_ns for path in others.glob("*.index.npy")}
    assert len(indexes) == len(counts_of(indexed))
    assert epoch(adopted(others, tmp_path), workers=2) == wanted
    assert {path: path.stat().st_mtime_ns for path in others.glob("*.index.npy")} == indexes


@pytest.mark.parametrize("kind", KINDS)
def test_no_shard_is_read_to_adopt_it(kind, indexed, others, monkeypatch):
    say(others, kind, counts_of(indexed))
    monkeypatch.setattr(collection, "open_shard", None)
    monkeypatch.setattr(location, "open_shard", None)
    assert "100 samples" not in run("adopt", others)


@pytest.mark.parametrize("kind", [timm, wids, open_clip])
def test_remote_shards_are_indexed_in_the_cache_when_they_are_fetched(
    kind, indexed, others, tmp_path
):
    say(others, kind, counts_of(indexed))
    (others / "classnames.txt").write_text("".join(f"class-{i}\n" for i in range(CLASSES)))
    served = {f"/set/{path.name}": path.read_bytes() for path in others.iterdir()}
    with FaultyServer(served) as site:
        manifest, _ = adopt_shards([site.url("/set")], tmp_path / "here")
        assert manifest.classes == tuple(f"class-{i}" for i in range(CLASSES))
        wanted = epoch(load_dataset([Manifest.load(indexed)], CLASSES, None))
        for _ in range(2):
            cache = cache_in(tmp_path)
            dataset = adopted(tmp_path / "here", tmp_path, cache=cache)
            assert epoch(dataset, workers=2, cache=cache) == wanted
        tar = next(path for path in served if path.endswith("000.tar"))
        # One request for its size (wids says it), one for its content.
        assert len(site.asked(tar)) == (1 if kind is wids else 2)
        found = sorted((tmp_path / "indexes").glob("*.npy"))
    assert len(found) == len(counts_of(indexed))


def test_a_pattern_with_its_stats_is_adopted_from_a_server(indexed, others, tmp_path):
    counts = counts_of(indexed)
    say(others, img2dataset, counts)
    with FaultyServer({f"/{path.name}": path.read_bytes() for path in others.iterdir()}) as site:
        pattern = site.url(f"/train-{{000000..{len(counts) - 1:06d}}}.tar?key=secret")
        manifest, _ = adopt_shards([pattern], tmp_path / "here")
        assert manifest.num_samples == NUM
    assert "secret" not in (tmp_path / "here" / "manifest.json").read_text()


def test_absolute_names_below_the_collection_are_names_in_it(indexed, others, monkeypatch):
    shards = [
        {"url": str(others / name), "nsamples": count} for name, count in counts_of(indexed).items()
    ]
    (others / "any.json").write_text(json.dumps({"shardlist": shards}))
    monkeypatch.chdir(others.parent)
    manifest, _ = adopt_shards([f"{others.name}/any.json"])
    assert manifest.shards == adopt_shards([str(others / "any.json")])[0].shards
    assert manifest.shards[0].name == min(counts_of(indexed))


def test_with_one_number_for_all_shards_the_last_is_counted(indexed, others):
    counts = counts_of(indexed)
    run("adopt", others, "--samples-per-shard", 15)
    found = [shard.num_samples for shard in Manifest.load(others).shards]
    assert found == [15] * (len(counts) - 1) + [counts[max(counts)]] and found[-1] != 15


def test_another_count_than_the_collection_says_is_refused_when_the_shard_is_read(
    indexed, others, tmp_path
):
    counts = counts_of(indexed)
    name = next(iter(counts))
    say(others, open_clip, counts | {name: counts[name] + 1})
    adopt_shards([str(others)])
    dataset = adopted(others, tmp_path)
    with pytest.raises(DataError, match=f"holds {counts[name]} samples where its collection says"):
        dataset.rows_of(0)
    dataset.rows_of(1)


def test_labels_are_checked_when_a_shard_is_read(indexed, others, tmp_path):
    say(others, open_clip, counts_of(indexed))
    adopt_shards([str(others)])
    with pytest.raises(DataError, match=r"label \d is not one of 0..1"):
        adopted(others, tmp_path, num_classes=2).rows_of(0)


def test_a_replaced_shard_is_indexed_again(indexed, others, tmp_path):
    say(others, open_clip, counts_of(indexed))
    adopt_shards([str(others)])
    before = adopted(others, tmp_path).rows_of(0).copy()
    first = sorted(others.glob("*.tar"))[0]
    other = write_set(tmp_path / "second", first=500)
    shutil.copy(sorted(other.glob("*.tar"))[0], first)
    adopt_shards([str(others)])  # its size may be another
    assert (adopted(others, tmp_path).rows_of(0)["crc32"] != before["crc32"]).any()


def test_another_label_key_is_another_index(others, indexed, tmp_path):
    say(others, open_clip, counts_of(indexed))
    adopt_shards([str(others)])
    adopted(others, tmp_path).rows_of(0)
    adopt_shards([str(others)], fields=Fields(label_key="class"))
    with pytest.raises(DataError, match=r"has no \.json file for its label"):
        adopted(others, tmp_path).rows_of(0)


def test_a_damaged_download_is_fetched_again_by_the_next_start(indexed, others, tmp_path):
    say(others, timm, counts_of(indexed))
    served = {f"/{path.name}": path.read_bytes() for path in others.iterdir()}
    first = f"/{min(counts_of(indexed))}"
    with FaultyServer(served) as site:
        adopt_shards([site.url("/")], tmp_path / "here")
        good, bad = served[first], bytearray(served[first])
        bad[148:156] = b"0000000\0"  # the checksum of its first header
        served[first] = bytes(bad)
        with pytest.raises(DataError, match="header at byte 0 is damaged"):
            adopted(tmp_path / "here", tmp_path, cache=cache_in(tmp_path)).rows_of(0)
        served[first] = good
        adopted(tmp_path / "here", tmp_path, cache=cache_in(tmp_path)).rows_of(0)


def test_what_needs_all_labels_is_refused_until_all_are_indexed(indexed, others, tmp_path):
    say(others, open_clip, counts_of(indexed))
    run("adopt", others)
    settings = load_settings(None, [f"data.train={others}", "data.sampling=balanced"])
    with pytest.raises(ConfigError, match=f"shards index {others}"):
        choose_selection(settings, adopted(others, tmp_path))
    for command in ("verify", "stats"):
        with pytest.raises(DataError, match=f"`rwp-dist shards index {others}`"):
            run(command, others)
    for command in ("index", "verify", "stats"):
        assert run(command, others)
    dataset = load_dataset([Manifest.load(others)], CLASSES, None)
    assert not dataset.lazy and len(np.unique(dataset.labels)) == CLASSES


def test_remote_shards_are_indexed_from_their_adopted_manifest(indexed, others, tmp_path):
    say(others, timm, counts_of(indexed))
    with FaultyServer({f"/{path.name}": path.read_bytes() for path in others.iterdir()}) as site:
        adopt_shards([site.url("/")], tmp_path / "here", fields=Fields(image_key="jpg"))
        manifest = index_shards([str(tmp_path / "here")]).manifest
    assert manifest.fields is None and manifest.num_classes == CLASSES
    assert manifest.shards[0].sha256 == Manifest.load(indexed).shards[0].sha256


BAD = {
    "no JSON": ("_info.json", b"{", "no JSON"),
    "deep": ("_info.json", b"[" * 200_000, "no JSON"),
    "other JSON": ("_info.json", b'{"name": "x"}', "neither splits"),
    "other split": ("_info.json", b'{"splits": {"val": {}, "test": {}}}', "splits val, test"),
    "lists": ("_info.json", b'{"splits": {"train": {"filenames": ["a.tar"]}}}', "lists of equal"),
    "braces": (
        "_info.json",
        b'{"splits": {"train": {"filenames": ["{0..999999999999}.tar"], "shard_lengths": [1]}}}',
        "more than 1,000,000 names",
    ),
    "negative": ("sizes.json", b'{"a.tar": -1}', "not a whole number"),
    "a boolean": ("sizes.json", b'{"a.tar": true}', "not a whole number"),
    "huge": ("sizes.json", b'{"a.tar": 1000000000000}', "1000000000000 samples in"),
    "5,000 digits": ("sizes.json", b'{"a.tar": ' + b"9" * 5000 + b"}", ""),
    "up": ("sizes.json", b'{"../a.tar": 1}', "does not lie beside it"),
    "absolute": ("sizes.json", b'{"/etc/a.tar": 1}', "does not lie beside it"),
    "a pipe": ("index.json", b'{"shardlist": [{"url": "pipe:x", "nsamples": 1}]}', ""),
    "a host": (
        "index.json",
        b'{"shardlist": [{"url": "http://other.host/a.tar", "nsamples": 1}]}',
        "does not lie beside it",
    ),
    "elsewhere": ("index.json", b'{"shardlist": [], "base_path": "/x"}', "base_path"),
    "nothing": ("index.json", b'{"shardlist": []}', "names no shards"),
    "NUL": ("sizes.json", b'{"a\\u0000.tar": 1}', "does not lie beside it"),
    "size": (
        "index.json",
        b'{"shardlist": [{"url": "a.tar", "nsamples": 1, "filesize": 77}]}',
        "77",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_a_collection_cannot_say_is_refused_in_a_sentence(kind, others):
    first = sorted(others.glob("*.tar"))[0]
    first.rename(others / "a.tar")
    name, content, words = BAD[kind]
    (others / name).write_bytes(content)
    with pytest.raises(RwpError) as caught:
        run("adopt", others)
    said = str(caught.value)
    assert words in said and len(said) < 600, said
    assert not (others / "manifest.json").exists()


def test_without_counts_the_cure_is_said(others, tmp_path):
    words = r"_info\.json.*--samples-per-shard"
    with pytest.raises(DataError, match=words):
        run("adopt", others)
    with FaultyServer({}) as site, pytest.raises(DataError, match=words):
        run("adopt", site.url("/set"), "--out", tmp_path / "x")


def test_indexed_or_unfinished_shards_are_not_adopted(indexed, tmp_path):
    folder = Path(shutil.copytree(indexed, tmp_path / "copy"))
    with pytest.raises(DataError, match="need not be adopted"):
        run("adopt", folder, "--samples-per-shard", 15)
    (folder / "manifest.json").unlink()
    with pytest.raises(DataError, match="start the command that was making these shards again"):
        run("adopt", folder, "--samples-per-shard", 15)


def test_a_folder_that_cannot_be_written_has_its_indexes_in_the_cache(
    indexed, others, tmp_path, monkeypatch
):
    say(others, open_clip, counts_of(indexed))
    adopt_shards([str(others)])
    real = lazy_indexes.write_bytes

    def write(path, data):
        if path.parent == others:
            raise PermissionError(13, "Permission denied")
        real(path, data)

    monkeypatch.setattr(lazy_indexes, "write_bytes", write)
    adopted(others, tmp_path).rows_of(0)
    assert len(list((tmp_path / "indexes").glob("*.npy"))) == 1
    assert not list(others.glob("*.npy"))


def test_another_split_does_not_replace_the_manifest_of_the_first(indexed, others):
    counts = counts_of(indexed)
    for name in counts:
        (others / name).rename(others / name.replace("train", "part"))
    counts = {name.replace("train", "part"): count for name, count in counts.items()}
    names = list(counts)
    splits = {
        split: {"filenames": part, "shard_lengths": [counts[name] for name in part]}
        for split, part in (("train", names[:3]), ("validation", names[3:]))
    }
    (others / "_info.json").write_text(json.dumps({"splits": splits}))
    run("adopt", others, "--split", "train")
    with pytest.raises(DataError, match="the manifest here names other shards"):
        run("adopt", others, "--split", "validation")
    run("adopt", others, "--split", "validation", "--out", others.parent / "val")
    with pytest.raises(DataError, match="the manifest here names other shards"):
        run("index", *sorted(others.glob("*.tar"))[3:])


def test_a_label_without_a_name_is_refused_when_its_shard_is_read(indexed, others, tmp_path):
    say(others, open_clip, counts_of(indexed))
    adopt_shards([str(others)], classes=["a", "b"])
    with pytest.raises(DataError, match="has no name, because 2 are named"):
        adopted(others, tmp_path).rows_of(0)


def test_several_addresses_are_one_collection(indexed, others):
    say(others, img2dataset, counts_of(indexed))
    tars = sorted(map(str, others.glob("*.tar")))
    assert adopt_shards(tars)[0].num_samples == NUM


def test_a_count_without_its_shard_is_refused(indexed, others):
    say(others, img2dataset, counts_of(indexed))
    min(others.glob("*.tar")).unlink()
    with pytest.raises(DataError, match="is missing beside"):
        run("adopt", others)


def test_a_server_that_is_away_is_asked_for_one_file_alone(monkeypatch):
    asked = []

    def read_url(url, **_):
        asked.append(url)
        raise NoAttemptsLeftError(f"{url}: away", cure="wait")

    monkeypatch.setattr(collection, "read_url", read_url)
    with pytest.raises(NoAttemptsLeftError):
        adopt_shards(["http://127.0.0.1:9/set"])
    assert len(asked) == 1
