import dataclasses
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import tarfile
import threading

import pytest
import webdataset as wds
from support.faulty_server import FaultyServer
from support.shard_files import (
    files,
    image_folder,
    jpeg,
    run,
    sample_members,
    tar_contents,
    tar_file,
)

from rwp_dist.base.errors import ConfigError, DataError
from rwp_dist.data.dataset import load_dataset
from rwp_dist.data.format.index import index_bytes, load_index
from rwp_dist.data.format.manifest import Manifest
from rwp_dist.data.reader import BadSample, ShardFiles
from rwp_dist.data.remote import Patience
from rwp_dist.shards.verify import verify_shards


@pytest.fixture
def server(tmp_path):
    """Serves ``tmp_path/www``: (its address, the list of files asked for)."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *arguments):
            pass

    def handler(*arguments):
        return Handler(*arguments, directory=str(tmp_path / "www"))

    (tmp_path / "www").mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as site:
        thread = threading.Thread(target=site.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{site.server_port}", asked
        site.shutdown()
        thread.join()


def faults(folder):
    return [fault for check in verify_shards(folder, "decode") for fault in check.faults]


def test_tars_of_others_get_index_and_manifest_and_stay_as_they_are(tmp_path):
    """GNU tar, webdataset's ShardWriter, and the layout of img2dataset, in one folder."""
    out = tmp_path / "mixed"
    (tmp_path / "files").mkdir()
    for name, content in sample_members(4):
        (tmp_path / "files" / name).write_bytes(content)
    out.mkdir()
    subprocess.run(
        ["tar", "cf", out / "a.tar", "--sort=name", "-C", tmp_path / "files", "."], check=True
    )
    with wds.ShardWriter(str(out / "b-%d.tar"), maxcount=3, verbose=0) as writer:
        for i in range(5):
            writer.write({"__key__": f"s{i}", "jpg": jpeg(i), "cls": i})
    before = files(out)
    run("index", out)
    assert {name: content for name, content in files(out).items() if name in before} == before
    manifest = Manifest.load(out)
    assert [(shard.name, shard.num_samples) for shard in manifest.shards] == [
        ("a.tar", 4),
        ("b-0.tar", 3),
        ("b-1.tar", 2),
    ]
    assert (manifest.num_samples, manifest.num_classes) == (9, 5)
    assert not faults(out)


def test_labels_of_img2dataset_lie_in_json(tmp_path):
    with wds.TarWriter(str(tmp_path / "00000.tar")) as tar:
        for i in range(3):
            text = json.dumps({"caption": "x", "class": i + 1, "status": "success"})
            tar.write({"__key__": f"{i:09d}", "jpg": jpeg(i), "txt": "x", "json": text.encode()})
    with pytest.raises(DataError, match="--label-key"):
        run("index", tmp_path)
    run("index", tmp_path, "--label-key", "class")
    assert load_index(tmp_path / "00000.tar.index.npy")["label"].tolist() == [1, 2, 3]


def test_remote_shards_are_described_by_a_local_manifest(tmp_path, server):
    address, _ = server
    for i in range(3):
        tar_file(tmp_path / "www" / f"x-{i}.tar", sample_members(4, first=4 * i))
    with pytest.raises(DataError, match="--out"):
        run("index", address + "/x-{0..2}.tar")
    out = tmp_path / "here"
    run("index", address + "/x-{0..2}.tar", "--out", out, "--workers", 2)
    indexes = [f"x-{i}.tar.index.npy" for i in range(3)]
    assert sorted(files(out)) == ["manifest.json", "samples.index", *indexes]
    manifest = Manifest.load(out)
    assert [shard.name for shard in manifest.shards] == [f"{address}/x-{i}.tar" for i in range(3)]
    assert not faults(out)
    # The same bytes give the same shas as beside the shards.
    run("index", tmp_path / "www")
    local = Manifest.load(tmp_path / "www")
    assert [s.sha256 for s in local.shards] == [s.sha256 for s in manifest.shards]
    assert [s.index_sha256 for s in local.shards] == [s.index_sha256 for s in manifest.shards]
    # Damaged on its way or at its place: found by verify.
    path = tmp_path / "www" / "x-1.tar"
    data = bytearray(path.read_bytes())
    data[int(load_index(out / "x-1.tar.index.npy")["offset"][2]) + 5] ^= 1
    path.write_bytes(data)
    name = manifest.shards[1].name
    assert [(fault.shard, fault.sample) for fault in faults(out)] == [(name, 2), (name, -1)]


def test_a_server_that_is_busy_for_a_moment_makes_no_fault_of_a_good_shard(tmp_path, monkeypatch):
    monkeypatch.setattr(Patience, "wait_s", lambda patience, failures, chance: 0.0)
    tar = tar_file(tmp_path / "a.tar", sample_members(3)).read_bytes()
    with FaultyServer({"/a.tar": tar}) as server:
        run("index", server.url("/a.tar"), "--out", tmp_path / "out")
        server.faults["/a.tar"] = [503, 500]
        run("verify", tmp_path / "out", "--level", "size")
        server.faults["/a.tar"] = [503]
        run("index", server.url("/a.tar"), "--out", tmp_path / "out")
        assert not server.faults["/a.tar"]
        server.always["/a.tar"] = 503
        with pytest.raises(DataError, match="1 fault in 1 shard"):
            run("verify", tmp_path / "out", "--level", "size")


def test_a_second_call_reads_only_what_is_new_or_changed(tmp_path, server):
    address, _ = server
    tar_file(tmp_path / "www" / "a.tar", sample_members(2))
    (tmp_path / "www" / "b.tar").write_bytes(b"")
    urls = [f"{address}/a.tar", f"{address}/b.tar"]
    with pytest.raises(DataError, match=r"b\.tar: .*cut short"):
        run("index", *urls, "--out", tmp_path / "out")
    index = tmp_path / "out" / "a.tar.index.npy"
    stamp = index.stat().st_mtime_ns
    tar_file(tmp_path / "www" / "b.tar", sample_members(3))
    run("index", *urls, "--out", tmp_path / "out")
    assert index.stat().st_mtime_ns == stamp
    assert Manifest.load(tmp_path / "out").num_samples == 5
    tar_file(tmp_path / "www" / "a.tar", sample_members(20))
    run("index", *urls, "--out", tmp_path / "out")
    assert Manifest.load(tmp_path / "out").num_samples == 23


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_tar_that_was_replaced_by_one_of_the_same_size_and_date_is_indexed_anew(
    tmp_path, elsewhere
):
    path = tar_file(tmp_path / "in" / "a.tar", [("x.jpg", jpeg(0)), ("x.cls", b"1")])
    tar_file(tmp_path / "in" / "b.tar", sample_members(2))
    out = ("--out", tmp_path / "out") if elsewhere else ()
    folder = tmp_path / ("out" if elsewhere else "in")
    run("index", tmp_path / "in", *out)
    before, stat = Manifest.load(folder), path.stat()
    kept = (folder / "b.tar.index.npy").stat().st_mtime_ns
    for label in (b"2", b"3"):
        tar_file(path, [("x.jpg", jpeg(0)), ("x.cls", label)])
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert (path.stat().st_size, path.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
        assert "1 shard kept, 1 read anew" in run("index", tmp_path / "in", *out)
        assert load_index(folder / "a.tar.index.npy")["label"].tolist() == [int(label)]
        assert not faults(folder)
    assert Manifest.load(folder).id != before.id
    assert (folder / "b.tar.index.npy").stat().st_mtime_ns == kept


def test_training_takes_no_bytes_of_a_tar_that_was_replaced(tmp_path):
    members = list(sample_members(4))
    path = tar_file(tmp_path / "a.tar", members)
    run("index", tmp_path)
    stat, dataset = path.stat(), load_dataset([Manifest.load(tmp_path)], 3, None)
    tar_file(path, [(name, content[::-1]) for name, content in members])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size
    reader = ShardFiles()
    for row in range(4):
        with pytest.raises(BadSample, match="is damaged: its crc32 is not the one of the index"):
            reader.sample(dataset.shards[0], dataset.rows_of(0), row)
    reader.close()


def test_classes_of_other_shards_name_the_labels_of_tars(tmp_path):
    image_folder(tmp_path / "images")
    run("write", tmp_path / "images", "--out", tmp_path / "train")
    tar_file(tmp_path / "val" / "v.tar", sample_members(2))
    run("index", tmp_path / "val", "--classes-of", tmp_path / "train")
    assert Manifest.load(tmp_path / "val").classes == ("ant", "bee", "cow")
    # Again, and without: the names stay.
    run("index", tmp_path / "val", "--classes-of", tmp_path / "train")
    run("index", tmp_path / "val")
    assert Manifest.load(tmp_path / "val").classes == ("ant", "bee", "cow")
    (tmp_path / "names").write_text("ant\n")
    with pytest.raises(ConfigError, match="it excludes --classes-of; give one of them"):
        both = ("--classes", tmp_path / "names", "--classes-of", tmp_path / "train")
        run("index", tmp_path / "val", *both)
    tar_file(tmp_path / "more" / "m.tar", [("a.jpg", jpeg(0)), ("a.cls", b"3")])
    with pytest.raises(DataError, match="labels go up to 3, but there are only 3 class names"):
        run("index", tmp_path / "more", "--classes-of", tmp_path / "train")
    run("index", tmp_path / "more")
    with pytest.raises(DataError, match=r"--classes-of: .*no names of their classes"):
        run("index", tmp_path / "val", "--classes-of", tmp_path / "more")


@pytest.mark.parametrize("elsewhere", [False, True])
def test_labels_that_mean_other_classes_are_not_renamed(tmp_path, elsewhere):
    image_folder(tmp_path / "1")
    image_folder(tmp_path / "2", classes=("bee", "cow"))
    for name in "12":
        run("write", tmp_path / name, "--out", tmp_path / "s" / name)
    out = ("--out", tmp_path / "out") if elsewhere else ()
    with pytest.raises(DataError, match=r"labels do not mean the same: 0 is 'ant' in .*and 'bee'"):
        run("index", tmp_path / "s" / "2", *out, "--classes-of", tmp_path / "s" / "1")


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_part_of_what_was_to_be_written_is_not_taken_for_all(tmp_path, elsewhere):
    out = tmp_path / "half"
    run("synthetic", "--num", 4, "--size", "24x16", "--samples-per-shard", 2, "--out", out)
    (out / "manifest.json").unlink()
    before = files(out)
    more = ["--out", tmp_path / "else"] if elsewhere else []
    with pytest.raises(DataError, match="has not finished") as refused:
        run("index", out, *more)
    assert f"remove {out / '.written'}" in refused.value.cure
    assert files(out) == before
    shutil.rmtree(out / ".written")
    run("index", out, *more)
    assert Manifest.load(tmp_path / "else" if elsewhere else out).num_samples == 4


def test_what_a_server_does_not_have_is_named_at_once(tmp_path, server):
    with pytest.raises(DataError, match=r"/none\.tar: .*404"):
        run("index", f"{server[0]}/none.tar", "--out", tmp_path / "out")
    assert len(server[1]) == 1


def test_a_damaged_tar_is_refused_and_no_manifest_written(tmp_path):
    path = tar_file(tmp_path / "in" / "a.tar", sample_members(10))
    data = path.read_bytes()
    boundary = int_offset(data)
    for damaged in (data[:boundary], data[:boundary] + b"\1" + data[boundary + 1 :]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"a\.tar: this is no complete"):
            run("index", path)
        assert not (tmp_path / "in" / "manifest.json").exists()


def test_names_of_classes_are_kept_or_given(tmp_path):
    tar_file(tmp_path / "in" / "a.tar", sample_members(3))
    names = tmp_path / "names.txt"
    names.write_text("ant\nbee\ncow\n")
    run("index", tmp_path / "in", "--classes", names)
    assert Manifest.load(tmp_path / "in").classes == ("ant", "bee", "cow")
    run("index", tmp_path / "in")
    assert Manifest.load(tmp_path / "in").classes == ("ant", "bee", "cow")
    names.write_bytes(b"\xef\xbb\xbfant\r\n\r\nb\xc3\xa9e\r\ncow\r\n\r\n")
    run("index", tmp_path / "in", "--classes", names)
    assert Manifest.load(tmp_path / "in").classes == ("ant", "bée", "cow")
    names.write_text("\n")
    with pytest.raises(DataError, match="no class names here; write one on each line"):
        run("index", tmp_path / "in", "--classes", names)
    names.write_text("ant\nbee\n")
    with pytest.raises(DataError, match="labels go up to 2, but there are only 2 class names"):
        run("index", tmp_path / "in", "--classes", names)


def test_shards_of_several_folders_need_a_place_and_names_of_their_own(tmp_path):
    for name in ("x/a.tar", "y/a.tar", "y/b.tar"):
        tar_file(tmp_path / name, sample_members(1))
    with pytest.raises(DataError, match="several folders"):
        run("index", tmp_path / "x", tmp_path / "y")
    with pytest.raises(DataError, match=r"a\.tar: 2 shards have this name .*rename one"):
        run("index", tmp_path / "x", tmp_path / "y", "--out", tmp_path / "z")
    run("index", tmp_path / "x" / "a.tar", tmp_path / "y" / "b.tar", "--out", tmp_path / "z")
    assert [shard.name for shard in Manifest.load(tmp_path / "z").shards] == [
        str(tmp_path / "x" / "a.tar"),
        str(tmp_path / "y" / "b.tar"),
    ]
    assert not faults(tmp_path / "z")


@pytest.mark.parametrize("url", ["none", "none-{0..1}.tar", "braces-{0..1.tar"])
def test_what_is_not_there_is_named(tmp_path, url):
    with pytest.raises(DataError, match=url.split("-")[0]):
        run("index", tmp_path / url)
    with pytest.raises(DataError, match=r"no \.tar files here"):
        run("index", tmp_path)


def int_offset(data):
    """Where the header of the fifth sample begins."""
    return data.index(b"0004.cls")


def test_an_opener_of_the_users_choice_indexes_and_verifies_what_it_opens(tmp_path, monkeypatch):
    store = tmp_path / "store"
    shard = tar_file(store / "x.tar", sample_members(3))
    (tmp_path / "my_store.py").write_text(
        f"def get(url):\n    return open({str(store)!r} + '/' + url.rpartition('/')[2], 'rb')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    out, opener = tmp_path / "out", ("--opener", "my_store:get")
    with pytest.raises(DataError, match=r"nothing here opens mine://.*--opener"):
        run("index", "mine://bucket/x.tar", "--out", out)
    run("index", "mine://bucket/x.tar", "--out", out, *opener)
    assert Manifest.load(out).num_samples == 3
    assert "all good" in run("verify", out, *opener)
    shard.write_bytes(shard.read_bytes()[:-5000])
    with pytest.raises(DataError, match="faults in 1 shard"):
        run("verify", out, *opener)


def linked(path):
    """A tar of two samples and a third that is hard links to the first."""
    tar_file(path, sample_members(2))
    with tarfile.open(path, "a") as tar:
        for kind in ("jpg", "cls"):
            info = tarfile.TarInfo(f"copy.{kind}")
            info.type, info.linkname = tarfile.LNKTYPE, f"0000.{kind}"
            tar.addfile(info)
    return path


def test_hard_links_are_indexed_verified_and_written(tmp_path):
    linked(tmp_path / "in" / "a.tar")
    assert "3 samples in 1 shard" in run("index", tmp_path / "in")
    assert not faults(tmp_path / "in")
    run("write", tmp_path / "in", "--out", tmp_path / "out")
    found = sorted(
        (image, label) for _, image, label in tar_contents(next(tmp_path.glob("out/*.tar")))
    )
    assert found == sorted([(jpeg(0), 0), (jpeg(0), 0), (jpeg(1), 1)])


def test_what_is_left_out_is_said_by_kind_also_by_a_second_call(tmp_path):
    folder = tmp_path / "in"
    strays = [("README.md", b"x"), ("dataset_info.json", b"{}"), ("._0000.jpg", b"double")]
    for name in ("a.tar", "b.tar"):
        tar_file(folder / name, [*strays, *sample_members(2)])
    (folder / "._a.tar").write_bytes(b"\0\5\x16\7" + bytes(4092))
    (folder / ".b.tar").symlink_to("b.tar")
    kinds = "2 x .json of no sample, 2 x .md of no sample, 2 x Apple double (._*)"
    said = f"8 files left out ({kinds}, 2 x hidden file beside shards)."
    for _ in range(2):
        found = run("index", folder)
        assert "4 samples in 2 shards" in found and said in found
    assert not faults(folder)
    assert said in run("write", folder, "--out", tmp_path / "out")
    assert Manifest.load(tmp_path / "out").num_samples == 4
    assert "left out" not in run("index", tmp_path / "out", "--out", tmp_path / "clean")


def test_another_image_key_indexes_anew(tmp_path):
    members = [("a.jpg", jpeg(0)), ("a.png", b"mask"), ("a.cls", b"1")]
    path = tar_file(tmp_path / "a.tar", members)
    sizes = {"jpg": len(jpeg(0)), "png": 4}
    for more, kind in (((), "jpg"), (("--image-key", "png"), "png"), ((), "jpg")):
        said = run("index", path, *more)
        assert f"1 x further .{'png' if kind == 'jpg' else 'jpg'} image of a sample" in said
        assert load_index(tmp_path / "a.tar.index.npy")["size"].tolist() == [sizes[kind]]


def test_what_an_earlier_version_indexed_is_read_again(tmp_path):
    """It took the png before the jpg; its records do not say what is left out."""
    members = [("a.jpg", jpeg(0)), ("a.png", b"mask"), ("a.cls", b"1")]
    path = tar_file(tmp_path / "a.tar", members)
    run("index", path)
    record = tmp_path / ".written" / "a.tar.json"
    content = json.loads(record.read_text())
    del content["left_out"]
    record.write_text(json.dumps(content))
    assert "1 x further .png image" in run("index", path)
    assert "left_out" in json.loads(record.read_text())


@pytest.mark.parametrize("command", ["index", "write"])
def test_a_pipe_is_not_waited_for(tmp_path, command):
    os.mkfifo(tmp_path / "a.tar")
    with pytest.raises(DataError, match=r"a\.tar: cannot be read \(it is a pipe"):
        run(command, tmp_path / "a.tar", "--out", tmp_path / "out")


def test_an_index_that_leads_beyond_its_shard_is_a_fault_and_refused(tmp_path):
    run("index", tar_file(tmp_path / "a.tar", sample_members(3)))
    path = tmp_path / "a.tar.index.npy"
    for field, value in (("offset", 2**64 - 1), ("offset", 10**12), ("size", 2**32 - 1)):
        index = load_index(path)
        index[field][1] = value
        manifest = Manifest.load(tmp_path)
        entry = dataclasses.replace(
            manifest.shards[0], index_sha256=hashlib.sha256(index_bytes(index)).hexdigest()
        )
        wrong = dataclasses.replace(manifest, shards=(entry,), location=str(tmp_path / "wrong"))
        tar = tar_file(tmp_path / "wrong" / "a.tar", sample_members(3))
        tar.with_name(path.name).write_bytes(index_bytes(index))
        wrong.save(tmp_path / "wrong")
        said = [(fault.sample, fault.what) for fault in faults(tmp_path / "wrong")]
        assert (1, "the image's place is beyond the end of the tar") in said
        with pytest.raises(DataError, match="leads beyond the end of the shard"):
            load_dataset([wrong], 3, None)


def test_a_folder_with_two_splits_is_refused(tmp_path):
    for name in ("train-0.tar", "val-0.tar"):
        tar_file(tmp_path / name, sample_members(2))
    with pytest.raises(DataError, match="shards of train and of val here"):
        run("index", tmp_path)


def test_the_address_of_a_folder_is_refused_with_the_pattern(tmp_path):
    with pytest.raises(DataError, match="servers do not list those"):
        run("index", "http://127.0.0.1:9/set", "--out", tmp_path)


def test_indexing_a_written_folder_adds_the_joined_index_and_reads_no_tar(tmp_path, monkeypatch):
    image_folder(tmp_path / "in", per_class=4)
    written = ("write", tmp_path / "in", "--out", tmp_path / "t", "--samples-per-shard", 3)
    run(*written)
    before, joined = files(tmp_path / "t"), tmp_path / "t" / "samples.index"
    joined.unlink()
    with monkeypatch.context() as patched:
        patched.setattr("rwp_dist.shards.index.index_tar", None)
        assert "4 shards kept" in run("index", tmp_path / "t")
    assert files(tmp_path / "t") == before
    assert "4 shards kept" in run(*written), "its records are those of before"


def test_indexing_again_keeps_the_order_of_the_manifest(tmp_path):
    for name in ("a", "b"):
        tar_file(tmp_path / "t" / f"{name}.tar", sample_members(3, first=ord(name)))
    run("index", tmp_path / "t" / "b.tar", tmp_path / "t" / "a.tar")
    before = files(tmp_path / "t")
    (tmp_path / "t" / "samples.index").unlink()
    run("index", tmp_path / "t")
    assert files(tmp_path / "t") == before


def test_a_manifest_elsewhere_than_its_shards_gets_its_joined_index_by_its_folder(tmp_path):
    for row in range(2):
        tar_file(tmp_path / "t" / f"{row}.tar", sample_members(3, first=3 * row))
    run("index", tmp_path / "t", "--out", tmp_path / "out")
    before = files(tmp_path / "out")
    (tmp_path / "out" / "samples.index").unlink()
    run("index", tmp_path / "out")
    assert files(tmp_path / "out") == before


def test_a_written_tar_that_has_changed_is_read_anew(tmp_path):
    image_folder(tmp_path / "in", per_class=4)
    run("write", tmp_path / "in", "--out", tmp_path / "t", "--samples-per-shard", 30)
    (tar,) = (tmp_path / "t").glob("*.tar")
    tar_file(tar, sample_members(3))
    run("index", tmp_path / "t")
    assert Manifest.load(tmp_path / "t").num_samples == 3
