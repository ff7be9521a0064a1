"""ImageNet's training images as they come: a tar of tars, one for each class."""

import io
import tarfile

import pytest
from support.shard_files import jpeg, run, sample_members, tar_contents, tar_file

from rwp_dist.base.errors import DataError
from rwp_dist.data.format.manifest import Manifest
from rwp_dist.shards.verify import verify_shards

CLASSES = ("n01440764", "n01443537", "n01484850")
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def inner(tmp_path, members, format=tarfile.GNU_FORMAT):
    """The content of a tar."""
    return tar_file(tmp_path / "inner", members, format).read_bytes()


def class_tars(tmp_path, prefix="", format=tarfile.GNU_FORMAT):
    """The tars of all classes, in no order, as members of another; and {content: label}."""
    labels, members = {}, []
    for label in (1, 2, 0):
        name = CLASSES[label]
        images = [(f"{name}_{i}.JPEG", jpeg(100 * label + i)) for i in range(4)]
        labels |= {content: label for _, content in images}
        members.append((f"{prefix}{name}.tar", inner(tmp_path, images, format)))
    return members, labels


@pytest.mark.parametrize("prefix", ["", "./", "ILSVRC2012/train/"])
@pytest.mark.parametrize("format", FORMATS)
def test_a_tar_of_tars_has_a_class_for_each(tmp_path, prefix, format):
    members, labels = class_tars(tmp_path, prefix, FORMATS[format])
    more = [("README", b"hello"), (f"{prefix}._x.tar", b"Apple double")]
    source = tar_file(tmp_path / "ILSVRC2012_img_train.tar", more + members, FORMATS[format])
    said = run("write", source, "--out", tmp_path / "out", "--samples-per-shard", 5)
    assert "a class for each tar in it (n01440764, n01443537, n01484850)" in said
    assert "2 files left out (2 x file beside the tars)" in said
    shards = sorted((tmp_path / "out").glob("*.tar"))
    assert {image: label for s in shards for _, image, label in tar_contents(s)} == labels
    assert Manifest.load(tmp_path / "out").classes == CLASSES
    assert not [c.faults for c in verify_shards(tmp_path / "out", "decode") if c.faults]
    again = run("write", source, "--out", tmp_path / "out", "--samples-per-shard", 5)
    assert "3 shards kept" in again


def test_links_in_a_class_are_followed_or_counted(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("a.jpg")
        info.size = len(jpeg(1))
        tar.addfile(info, io.BytesIO(jpeg(1)))
        for name, kind in (("b.jpg", tarfile.LNKTYPE), ("c.jpg", tarfile.SYMTYPE)):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "a.jpg"
            tar.addfile(link)
    source = tar_file(tmp_path / "all.tar", [("ant.tar", buffer.getvalue())])
    said = run("write", source, "--out", tmp_path / "out")
    assert "1 file left out (1 x link or sparse file)" in said
    (shard,) = (tmp_path / "out").glob("*.tar")
    assert [image for _, image, _ in tar_contents(shard)] == [jpeg(1)] * 2


def test_what_is_no_tar_of_classes_is_refused_with_the_cure(tmp_path):
    members, _ = class_tars(tmp_path)
    good = members[0][1]
    for others, words in (
        ([("ant.tar", inner(tmp_path, sample_members(2)))], r"ant\.tar: it holds labelled samples"),
        ([("x/n01443537.tar", good)], r"has two n01443537\.tar; rename"),
        ([("ant.tar", inner(tmp_path, [("README", b"")]))], r"ant\.tar: this class has no images"),
        ([("ant.tar", good[:2000])], r"ant\.tar: .*cut short"),
        ([("ant.tar", b"\x1f\x8b" + bytes(1000))], r"ant\.tar: .*compressed by gzip"),
    ):
        source = tar_file(tmp_path / "all.tar", members + others)
        with pytest.raises(DataError, match=words) as caught:
            run("write", source, "--out", tmp_path / "out")
        assert caught.value.cure
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["train.tar.gz", "imagenet.zip", "imagenette2.tgz"])
def test_archives_are_refused_with_the_cure(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match="this is an archive; unpack it"):
        run("write", tmp_path / name, "--out", tmp_path / "out")
