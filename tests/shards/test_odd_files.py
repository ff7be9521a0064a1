"""Folders as they are on real disks: links, pipes, devices, names of any bytes."""

import os
import socket
from pathlib import Path

import pytest
from support.shard_files import image_folder, jpeg, run, tar_contents

from rwp_dist.base.errors import DataError
from rwp_dist.data.format.manifest import Manifest
from rwp_dist.shards import location
from rwp_dist.shards.listing import list_source
from rwp_dist.shards.sources import list_folders, read_image

LATIN = os.fsdecode(b"caf\xe9.jpg")


def test_links_in_a_circle_end_and_no_image_comes_twice(tmp_path: Path) -> None:
    image_folder(tmp_path / "in", classes=("a", "b"), per_class=2)
    (tmp_path / "more" / "x").mkdir(parents=True)
    (tmp_path / "more" / "x" / "m.jpg").write_bytes(jpeg(7))
    (tmp_path / "more" / "x" / "back").symlink_to(tmp_path / "more")
    for place, target in (
        ("a/loop", ".."),
        ("a/up", tmp_path),
        ("b/self", "."),
        ("b/other", tmp_path / "more"),
        ("b/again", tmp_path / "more"),
    ):
        (tmp_path / "in" / place).symlink_to(target)
    listing = list_folders(tmp_path / "in")
    names = [sample.name for sample in listing.samples]
    assert names == ["a/a_0.JPEG", "a/a_1.JPEG", "b/b_0.JPEG", "b/b_1.JPEG", "b/again/x/m.jpg"]
    assert listing.left_out == {"folder that a link leads to again": 5}


def test_a_class_that_is_a_link_to_all_classes_is_none(tmp_path: Path) -> None:
    image_folder(tmp_path, classes=("a",), per_class=1)
    (tmp_path / "b").symlink_to(".")
    with pytest.raises(DataError, match=r"b: this class has no images"):
        list_folders(tmp_path)


def test_what_is_no_file_is_left_out_and_counted(tmp_path: Path) -> None:
    image_folder(tmp_path / "in", classes=("a",), per_class=2)
    folder = tmp_path / "in" / "a"
    os.mkfifo(folder / "pipe.jpg")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    (folder / "gone.jpg").symlink_to("nowhere")
    (folder / "me.jpg").symlink_to("me.jpg")
    (folder / "link.jpg").symlink_to("a_0.JPEG")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(folder / "s.jpg"))
    listing = list_folders(tmp_path / "in")
    assert [sample.name for sample in listing.samples] == ["a/a_0.JPEG", "a/a_1.JPEG", "a/link.jpg"]
    assert listing.left_out == {"pipe, socket or device": 3, "link to nowhere": 2}


def test_names_that_are_not_utf8_are_read_and_listed(tmp_path: Path) -> None:
    labels = image_folder(tmp_path / "in", classes=("a", "b"), per_class=1)
    (tmp_path / "in" / "a" / LATIN).write_bytes(jpeg(5))
    (tmp_path / "in" / "b" / LATIN).write_bytes(b"no image")
    assert "1 image left out" in run(
        "write", tmp_path / "in", "--out", tmp_path / "out", "--max-bad", 1
    )
    (path,) = (tmp_path / "out").glob("*.tar")
    assert {image: label for _, image, label in tar_contents(path)} == labels | {jpeg(5): 0}
    assert "b/caf\\udce9.jpg\t" in (tmp_path / "out" / "bad_samples.tsv").read_text("utf-8")
    (tmp_path / "in" / "b").rename(tmp_path / "in" / LATIN)
    with pytest.raises(DataError, match="is not UTF-8; rename it"):
        list_folders(tmp_path / "in")


@pytest.mark.parametrize("target", ["pipe", "device", "sparse", "folder", "missing", "a\0b"])
def test_a_list_may_name_anything_and_reading_ends(tmp_path: Path, target: str) -> None:
    name = target if "\0" in target else "x.jpg"
    path = tmp_path / "x.jpg"
    if target == "pipe":
        os.mkfifo(path)
    elif target == "device":
        path.symlink_to("/dev/zero")
    elif target == "folder":
        path.mkdir()
    elif target == "sparse":
        with path.open("wb") as file:
            file.truncate(10**12)
    (tmp_path / "list.txt").write_text(f"{name}.jpg\t0\n" if "\0" in name else f"{name}\t0\n")
    (sample,) = list_source(str(tmp_path / "list.txt")).samples
    with pytest.raises(DataError, match="cannot be read"):
        read_image(sample)


@pytest.mark.parametrize("place", ["/dev/zero", "pipe", "folder.tar"])
@pytest.mark.parametrize("command", ["index", "write", "verify", "stats", "classes"])
def test_no_command_waits_for_what_never_ends(tmp_path: Path, command: str, place: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder.tar").mkdir()
    path, out = tmp_path / place, ("--out", tmp_path / "out")
    arguments = {
        "index": ("index", path, *out),
        "write": ("write", path, *out),
        "verify": ("verify", path),
        "stats": ("stats", path),
        "classes": ("index", tmp_path, "--classes", path),
    }[command]
    with pytest.raises(DataError):
        run(*arguments)


@pytest.mark.parametrize("pattern", ["x-{0..999999999999}.tar", "x-{0..9999}{0..9999}.tar"])
def test_braces_that_name_too_many_are_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    monkeypatch.setattr(location, "MOST_SHARDS", 20_000)
    with pytest.raises(DataError, match="more than 20,000 names; check its braces"):
        run("index", pattern)


JUNK = ["", "[]", "{}", "[" * 200_000, '{"recipe": 3}', '{"recipe": "x", "num_classes": 1}']


@pytest.mark.parametrize("junk", JUNK)
def test_a_record_that_is_none_is_named(tmp_path: Path, junk: str) -> None:
    image_folder(tmp_path / "in", per_class=1)
    run("write", tmp_path / "in", "--out", tmp_path / "out")
    (record,) = (tmp_path / "out" / ".written").iterdir()
    good = record.read_text()
    for content in (junk, good.replace('"num_samples": 3', '"num_samples": -3')):
        record.write_text(content)
        with pytest.raises(DataError, match=r"json: cannot be read; remove this file and run"):
            run("write", tmp_path / "in", "--out", tmp_path / "out")


def test_a_label_of_two_billion_takes_no_memory(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(0))
    (tmp_path / "list.txt").write_text(f"a.jpg\t{2**31 - 1}\n")
    run("write", tmp_path / "list.txt", "--out", tmp_path / "out")
    assert Manifest.load(tmp_path / "out").num_classes == 2**31
    assert "2,147,483,648, 2,147,483,647 of them empty" in run("stats", tmp_path / "out")
