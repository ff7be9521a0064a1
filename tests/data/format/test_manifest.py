import hashlib
import json

import pytest

from rwp_dist.base.errors import DataError
from rwp_dist.data.format.manifest import Manifest, ShardEntry


def entry(name, num_samples=2):
    return ShardEntry(name, num_samples, 10240, "a" * 64, "b" * 64)


def two(**keywords):
    fields = {"num_classes": 2, "classes": ("x", "y"), "shards": (entry("a.tar"), entry("b.tar"))}
    return Manifest(**{**fields, **keywords})


def test_a_saved_manifest_comes_back_from_folder_and_file(tmp_path):
    manifest = two()
    path = manifest.save(tmp_path)
    for place in (tmp_path, path, str(path)):
        loaded = Manifest.load(place)
        assert loaded.shards == manifest.shards and loaded.classes == ("x", "y")
        assert loaded.location == str(tmp_path)
        assert (loaded.num_samples, loaded.num_bytes, loaded.id) == (4, 20480, manifest.id)
    content = json.loads(path.read_text())
    assert list(content)[:2] == ["format", "id"]
    assert set(content) == {
        *("format", "id", "num_samples", "num_bytes", "num_classes", "classes", "shards")
    }
    # The id as the documentation has it, computed by hand.
    identity = content.pop("id")
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(canonical.encode()).hexdigest() == identity


def test_the_id_covers_everything_but_the_place():
    assert two(location="/here").id == two(location="/there").id
    others = [
        two(classes=None),
        two(classes=("x", "z")),
        two(shards=(entry("b.tar"), entry("a.tar"))),
        two(shards=(entry("a.tar"), entry("b.tar", 3))),
    ]
    assert len({manifest.id for manifest in [two(), *others]}) == 5


def test_where_shards_and_indexes_are():
    shards = (entry("a.tar"), entry("http://host/x/b.tar"), entry("/data/c.tar"))
    manifest = two(shards=shards, location="http://other/y")
    assert [manifest.shard_location(shard) for shard in shards] == [
        "http://other/y/a.tar",
        "http://host/x/b.tar",
        "/data/c.tar",
    ]
    assert [manifest.index_location(shard) for shard in shards] == [
        f"http://other/y/{name}.tar.index.npy" for name in "abc"
    ]


@pytest.mark.parametrize("names", [("a.tar", "a.tar"), ("/x/a.tar", "http://host/a.tar")])
def test_shards_whose_indexes_would_lie_at_one_place_are_refused(names):
    with pytest.raises(DataError, match=r"a\.tar: 2 shards have this name .*; rename one"):
        two(shards=tuple(entry(name) for name in names))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-20], "no manifest"),
        (lambda text: "[]", "no manifest"),
        (lambda text: text.replace('"sha256"', '"md5"'), "no manifest"),
        (lambda text: text.replace('"format": 1', '"format": 2'), "format is 2"),
        (lambda text: text.replace("10240", "10241"), "changed or cut"),
        (lambda text: text.replace('"num_samples": 4', '"num_samples": 5'), "changed or cut"),
        (lambda text: text.replace('"x"', '"z"'), "changed or cut"),
        (lambda text: text.replace('"x",', ""), "1 class names for 2 classes"),
    ],
)
def test_a_manifest_that_is_not_whole_is_refused_by_name_with_a_cure(change, message):
    text = change(two().to_json())
    with pytest.raises(DataError, match=rf"there/manifest\.json: .*{message}.*shards index"):
        Manifest.from_json(text, "there")


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(DataError, match=r"manifest\.json: cannot be read .*shards index"):
        Manifest.load(tmp_path)
    with pytest.raises(DataError, match=r"none: cannot be read .*; check the path\.") as refused:
        Manifest.load(tmp_path / "none")
    assert "shards index" not in str(refused.value)
    with pytest.raises(DataError, match="names no shards"):
        two(shards=())
