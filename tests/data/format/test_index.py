import io
import os
import subprocess
import tarfile
import zlib

import numpy as np
import pytest
import webdataset as wds
from support.shard_files import jpeg, sample_members, tar_file

from rwp_dist.base.errors import DataError
from rwp_dist.data.format.index import INDEX_DTYPE, index_bytes, index_tar, load_index
from rwp_dist.data.format.sample import Fields
from rwp_dist.data.format.tar import BLOCK_BYTES


def index_of(path, **keywords):
    with path.open("rb") as file:
        return index_tar(file, str(path), Fields(**keywords))


def check_against_bytes(path, expected):
    """The index leads to the images in ``expected``, [(image, label)], in order."""
    data = path.read_bytes()
    found = []
    for offset, size, crc32, label in index_of(path).index:
        image = data[offset : offset + size]
        assert zlib.crc32(image) == crc32
        found.append((image, label))
    assert found == expected


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("folder", ["", "./some/dir.d/", "ü" * 120 + "/"])
def test_the_index_leads_to_every_image_whatever_wrote_the_tar(tmp_path, format, folder):
    if format == tarfile.USTAR_FORMAT and len(folder) > 100:
        pytest.skip("USTAR has no such names")
    members = [(folder + name, content) for name, content in sample_members(4)]
    path = tar_file(tmp_path / "a.tar", members, format)
    check_against_bytes(path, [(jpeg(i), i % 3) for i in range(4)])


def test_tars_of_the_command_line_and_of_webdataset_are_indexed(tmp_path):
    (tmp_path / "files").mkdir()
    for name, content in sample_members(3):
        (tmp_path / "files" / name).write_bytes(content)
    path = tmp_path / "gnu.tar"
    subprocess.run(["tar", "cf", path, "--sort=name", "-C", tmp_path / "files", "."], check=True)
    check_against_bytes(path, [(jpeg(i), i % 3) for i in range(3)])
    with wds.TarWriter(str(tmp_path / "wds.tar"), format="PAX_FORMAT") as tar:
        for i in range(3):
            tar.write({"__key__": f"x/{i}", "jpg": jpeg(i), "cls": i % 3, "txt": "hello"})
    check_against_bytes(tmp_path / "wds.tar", [(jpeg(i), i % 3) for i in range(3)])


def test_labels_come_from_a_json_field(tmp_path):
    members = [("a.jpg", jpeg(0)), ("a.json", b'{"label": 7, "other": "x"}')]
    path = tar_file(tmp_path / "a.tar", members)
    assert index_of(path, label_key="label").index["label"].tolist() == [7]
    for key in ("absent", "other"):
        with pytest.raises(DataError, match=r"sample a .*whole number from 0"):
            index_of(path, label_key=key)
    with pytest.raises(DataError, match="--label-key"):
        index_of(path)


def test_a_json_that_is_too_deep_is_no_label(tmp_path):
    path = tar_file(tmp_path / "a.tar", [("a.jpg", b"1"), ("a.json", b"[" * 200_000)])
    with pytest.raises(DataError, match=r"sample a has no field 'label' in its \.json"):
        index_of(path, label_key="label")


@pytest.mark.parametrize(
    ("image_key", "kind"),
    [(None, "jpg"), ("png", "png"), ("webp;PNG", "png"), (".mask.png", "mask.png")],
)
def test_of_several_images_the_one_is_taken_that_webdataset_takes_or_that_is_chosen(
    tmp_path, image_key, kind
):
    images = {"png": b"png", "mask.png": b"mask", "jpg": b"jpg", "jpeg": b"jpeg"}
    members = [(f"a.{name}", content) for name, content in images.items()]
    path = tar_file(tmp_path / "a.tar", [*members, ("a.txt", b"x"), ("a.cls", b"1")])
    (record,) = index_of(path, image_key=image_key).index
    assert path.read_bytes()[record["offset"] :][: record["size"]] == images[kind]
    others = {f"further .{name} image of a sample": 1 for name in images if name != kind}
    assert index_of(path, image_key=image_key).left_out == others | {"unused .txt of a sample": 1}


def test_files_that_are_no_samples_are_left_out_and_counted(tmp_path):
    strays = ["README.md", "LICENSE", ".DS_Store", "./._x.jpg", "info.json", "x/._y.cls"]
    members = [*((name, b"{}") for name in strays), ("a.jpg", b"1"), ("a.cls", b"1")]
    members.insert(-1, ("._a.cls", b"double"))
    path = tar_file(tmp_path / "a.tar", members)
    indexed = index_of(path)
    assert indexed.index["label"].tolist() == [1]
    assert indexed.left_out == {
        ".md of no sample": 1,
        ".json of no sample": 1,
        "Apple double (._*)": 3,
        "hidden file": 1,
        "name without an extension": 1,
    }
    json = tar_file(tmp_path / "b.tar", [*members[:6], ("a.jpg", b"1"), ("a.json", b'{"y": 2}')])
    assert index_of(json, label_key="y").index["label"].tolist() == [2]
    assert index_of(json, label_key="y").left_out[".json of no sample"] == 1


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize(("key", "text"), [(None, "3\r\n"), ("y", '{"y": 3}')])
def test_a_label_may_have_a_byte_order_mark(tmp_path, encoding, key, text):
    label = ("a.json" if key else "a.cls", text.encode(encoding))
    path = tar_file(tmp_path / "a.tar", [("a.jpg", b"1"), label])
    assert index_of(path, label_key=key).index["label"].tolist() == [3]


def test_hard_links_are_samples_of_their_own(tmp_path):
    path = tar_file(tmp_path / "a.tar", [("a.jpg", jpeg(0)), ("a.cls", b"1")])
    with tarfile.open(path, "a") as tar:
        for name, target in (("b.jpg", "a.jpg"), ("b.cls", "a.cls")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.LNKTYPE, target
            tar.addfile(info)
    check_against_bytes(path, [(jpeg(0), 1)] * 2)
    with tarfile.open(path, "a") as tar:
        info = tarfile.TarInfo("c.jpg")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(DataError, match=r"c\.jpg is a symbolic link to /etc/passwd; pack"):
        index_of(path)


def test_a_cut_anywhere_is_an_error(tmp_path):
    data = tar_file(tmp_path / "a.tar", sample_members(3)).read_bytes()
    end = len(data.rstrip(b"\0"))
    blocks = range(0, -(-end // BLOCK_BYTES) * BLOCK_BYTES + BLOCK_BYTES + 1, BLOCK_BYTES)
    for cut in [*blocks, *range(100, end, 777)]:
        for stream in (io.BytesIO(data[:cut]), _NoSeek(data[:cut])):
            with pytest.raises(DataError, match="cut short"):
                index_tar(stream, "a.tar")
    # Both blocks that end a tar are there: what is gone is padding.
    assert len(index_tar(io.BytesIO(data[: blocks[-1] + BLOCK_BYTES]), "a.tar").index) == 3


def test_a_flipped_bit_in_any_header_is_an_error(tmp_path):
    path = tar_file(tmp_path / "a.tar", sample_members(2))
    data = path.read_bytes()
    with tarfile.open(path) as tar:
        headers = [member.offset for member in tar]
    for header in headers:
        for place in range(header, header + 160, 7):
            damaged = bytearray(data)
            damaged[place] ^= 4
            with pytest.raises(DataError, match=r"a.tar: .*(damaged|cut short)"):
                index_tar(io.BytesIO(damaged), "a.tar")
    with pytest.raises(DataError, match="something follows its end"):
        index_tar(io.BytesIO(data + b"more"), "a.tar")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([], "0 samples"),
        ([("a.cls", b"1")], "sample a has no image"),
        ([("a.jpg", b"1")], "sample a has no .cls"),
        ([("a.jpg", b"1"), ("a.cls", b"cat")], "the label b'cat'"),
        ([("a.jpg", b"1"), ("a.cls", b"-1")], "the label -1"),
        ([("a.jpg", b"1"), ("a.cls", b"1_0")], "the label b'1_0'"),
        ([("a.jpg", b"1"), ("a.cls", b"1" * 5000)], "the label b'1{40}'"),
        ([("a.jpg", b"1"), ("a.cls", bytes(1 << 25))], r"a\.cls has 33,554,432 bytes"),
        ([("a.v2.jpg", b"1"), ("a.v2.cls", b"1")], r"no image but \.v2\.jpg .*--image-key v2\.jpg"),
        ([("a.bmp", b"1"), ("a.cls", b"1")], "sample a has no image"),
        ([("a.jpg", b"1"), ("a.cls", b"3000000000")], "the label 3000000000"),
        ([("a.jpg", b"1"), ("a.cls", b"1"), ("a.jpg", b"2")], r"two \.jpg files"),
        ([("a.jpg", b"1"), ("b.jpg", b"2"), ("a.cls", b"1")], "right beside"),
    ],
)
def test_samples_that_cannot_be_used_are_named(tmp_path, members, message):
    with pytest.raises(DataError, match=message):
        index_of(tar_file(tmp_path / "a.tar", members))


def test_a_compressed_tar_is_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("x.jpg"))
    with pytest.raises(DataError, match="uncompressed tar"):
        index_of(tmp_path / "a.tar")


def test_an_index_file_round_trips_and_anything_else_is_refused(tmp_path):
    index = index_of(tar_file(tmp_path / "a.tar", sample_members(5))).index
    content = index_bytes(index)
    (tmp_path / "a.tar.index.npy").write_bytes(content)
    for source in (content, tmp_path / "a.tar.index.npy"):
        loaded = load_index(source)
        assert loaded.dtype == INDEX_DTYPE and np.array_equal(loaded, index)
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    claims = content.replace(b"(5,), }" + b" " * 12, b"(1000000000000,), }")
    assert len(claims) == len(content) and claims != content
    fortran = content.replace(b"False", b"True ")
    square = content.replace(b"(5,), ", b"(5,1),")
    pickled = io.BytesIO()
    np.save(pickled, np.array([{}], dtype=object), allow_pickle=True)
    deep = content.replace(b"{'descr': [", b"{'descr':((")
    others = (fortran, square, pickled.getvalue(), deep, content.replace(b"offset", b"off'et"))
    assert content not in others
    for wrong in (claims, content[:-1], content[:20], b"", b"nonsense", buffer.getvalue(), *others):
        with pytest.raises(DataError, match=r"x.npy: this is no index .*shards index"):
            load_index(wrong, "x.npy")
    with pytest.raises(DataError, match=r"none.npy: cannot be read"):
        load_index(tmp_path / "none.npy")
    with (tmp_path / "huge.npy").open("wb") as file:
        file.truncate(10**12)
    os.mkfifo(tmp_path / "pipe.npy")
    for name in ("huge", "pipe"):
        with pytest.raises(DataError, match=rf"{name}.npy: cannot be read \(it "):
            load_index(tmp_path / f"{name}.npy")


class _NoSeek:
    """A stream such as a connection: short reads, no seeking."""

    def __init__(self, data):
        self.rest = io.BytesIO(data)

    def read(self, size):
        return self.rest.read(min(size, 300))
