import hashlib
import json
import os

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
    manifest = two(shards=shards, location="/here")
    assert [manifest.shard_location(shard) for shard in shards] == [
        "/here/a.tar",
        "http://host/x/b.tar",
        "/data/c.tar",
    ]
    assert [manifest.index_location(shard) for shard in shards] == [
        f"/here/{name}.tar.index.npy" for name in "abc"
    ]


def test_a_manifest_from_a_url_leads_to_its_own_host_alone():
    for name in ("a.tar", "x/b.tar", "http://host/x/b.tar", "http://HOST/c.tar"):
        assert two(shards=(entry(name),), location="http://me:pw@host/y").id
    for name in ("http://other/b.tar", "https://host/b.tar", "http://host:8/b.tar", "/etc/passwd"):
        with pytest.raises(DataError, match=rf"leads away from its own place, to {name}; index"):
            two(shards=(entry(name),), location="http://host/y")


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "a/", "a/..", "../a.tar", "x/../../a.tar", "/data/../a.tar"),
        *("pipe:touch /tmp/x", "file:/etc/passwd", "file:///etc/passwd", "local:///etc/passwd"),
        *("s3://b/x::file:///etc/passwd", "a\0.tar", "a\nb.tar", "a\x1b[2J.tar", "\ud800.tar"),
        *("x" * 5000, 7, None, ["a.tar"], True),
    ],
)
def test_what_is_no_file_beside_the_manifest_is_no_name_of_a_shard(name):
    with pytest.raises(DataError, match=r"here/manifest\.json: .* cannot be the name of a shard"):
        two(shards=(entry(name),), location="here")


WRONG = [-1, 1.0, True, "2", None, 2**63, 10**4000, [2], 21]
"""As the number of samples in 10,240 bytes."""


@pytest.mark.parametrize("number", WRONG)
def test_numbers_that_cannot_be_true_are_refused_before_they_are_used(number):
    with pytest.raises(DataError, match=r"here/manifest\.json: it has .*a\.tar; make it with"):
        two(shards=(entry("a.tar", number),), location="here")
    if number != 21:
        with pytest.raises(DataError, match=r"here/manifest\.json: it has .* classes; make it"):
            two(num_classes=number, classes=None, location="here")


@pytest.mark.parametrize("sha256", ["A" * 64, "a" * 63, "g" * 64, "../" + "a" * 61, 5, None])
def test_a_sha256_is_one(sha256):
    with pytest.raises(DataError, match=r"as a sha256 of a\.tar"):
        two(shards=(ShardEntry("a.tar", 2, 10240, "a" * 64, sha256),))


@pytest.mark.parametrize("name", [3, None, "caf\udce9"])
def test_a_class_name_is_text(name):
    with pytest.raises(DataError, match=r"the class name .* is no text; give it a name in UTF-8"):
        two(classes=("x", name))


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b'{"format": 1, "format": 1}',
        b"1" * 5000,
        b"\xff\xfe\x00",
        b"null",
        b"",
        b'{"format": 1, "classes": 3, "num_classes": 3, "shards": [], "id": ""}',
        b'{"format": 1, "classes": null, "num_classes": 3, "shards": [3], "id": ""}',
        b'{"format": 1, "classes": null, "num_classes": 3, "shards": 3, "id": ""}',
    ],
)
def test_any_other_json_is_no_manifest(text):
    with pytest.raises(DataError, match=r"here/manifest\.json: .*shards index"):
        Manifest.from_json(text, "here")


def test_a_manifest_of_gigabytes_and_a_pipe_are_not_read(tmp_path):
    path = tmp_path / "manifest.json"
    with path.open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(DataError, match=r"it has 1\.0 TB, and 134 MB are the most"):
        Manifest.load(tmp_path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match="it is a pipe, socket or device, not a file"):
        Manifest.load(tmp_path)


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
        (lambda text: text.replace('"format": 1', '"format": 3'), "format is 3"),
        (lambda text: text.replace('"format": 1', '"format": 2'), "no manifest"),
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
