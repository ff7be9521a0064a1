import numpy as np
import pytest
from support.shard_files import jpeg, run, sample_members, tar_file

from rwp_dist.base.errors import DataError
from rwp_dist.data.format.index import load_index
from rwp_dist.data.format.manifest import Manifest
from rwp_dist.shards.verify import verify_shards

LEVELS = ("size", "sha256", "decode")


@pytest.fixture
def folder(tmp_path):
    """Three good shards of 6 samples."""
    for i in range(3):
        tar_file(tmp_path / "t" / f"{i}.tar", sample_members(6, first=6 * i))
    run("index", tmp_path / "t")
    return tmp_path / "t"


def faults(folder, level, workers=1):
    checks = verify_shards(folder, level, workers)
    return sorted(fault for check in checks for fault in check.faults)


def damage(path, place, bit=1):
    data = bytearray(path.read_bytes())
    data[place] ^= bit
    path.write_bytes(data)


@pytest.mark.parametrize("level", LEVELS)
def test_good_shards_are_good_at_every_level(folder, level):
    said = run("verify", folder, "--level", level)
    assert f"3 shards with 18 samples, all good ({level})" in said


@pytest.mark.parametrize("level", LEVELS)
def test_a_cut_between_two_samples_is_found_at_every_level(folder, level):
    path = folder / "1.tar"
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"0009.cls")])
    found = faults(folder, level)
    assert {fault.shard for fault in found} == {"1.tar"}
    assert any("bytes and should have" in fault.what for fault in found)
    if level != "size":
        assert [fault.sample for fault in found if fault.sample >= 0] == [3, 4, 5]


@pytest.mark.parametrize("where", ["header", "label", "padding"])
def test_a_flipped_bit_outside_the_images_is_found(folder, where):
    path = folder / "2.tar"
    data = path.read_bytes()
    header = data.index(b"0014.cls")
    damage(path, {"header": header + 3, "label": header + 512, "padding": len(data) - 1}[where])
    assert not faults(folder, "size")
    (found,) = faults(folder, "sha256")
    assert (found.shard, found.sample) == ("2.tar", -1) and "every image is intact" in found.what


def test_every_image_with_a_flipped_bit_is_named_in_print_and_report(folder, tmp_path):
    places = {name: load_index(folder / f"{name}.index.npy") for name in ("0.tar", "2.tar")}
    damage(folder / "0.tar", int(places["0.tar"]["offset"][0]))
    damage(folder / "2.tar", int(places["2.tar"]["offset"][4]) + 9, bit=128)
    damage(folder / "2.tar", int(places["2.tar"]["offset"][5] + places["2.tar"]["size"][5]) - 1)
    expected = [("0.tar", 0), ("2.tar", 4), ("2.tar", 5)]
    for workers in (1, 2):
        found = faults(folder, "sha256", workers)
        assert [(f.shard, f.sample) for f in found if f.sample >= 0] == expected
        assert {f.shard for f in found if f.sample < 0} == {"0.tar", "2.tar"}
        assert [f.label for f in found if f.sample >= 0] == [0, 1, 2]
    with pytest.raises(DataError, match="5 faults in 2 shards"):
        run("verify", folder, "--report", tmp_path / "new" / "report.tsv")
    lines = (tmp_path / "new" / "report.tsv").read_text().splitlines()
    assert lines[0].split("\t") == ["shard", "sample", "label", "fault"]
    assert [tuple(line.split("\t")[:2]) for line in lines[1:]] == [
        (f.shard, str(f.sample)) for f in found
    ]


def test_an_image_that_was_bad_from_the_start_is_found_by_decoding_it(tmp_path):
    members = list(sample_members(5))
    members[3] = ("0001.jpg", b"never an image")
    members[7] = ("0003.jpg", jpeg(3)[:-200])
    tar_file(tmp_path / "a.tar", members)
    run("index", tmp_path)
    assert not faults(tmp_path, "sha256")
    found = faults(tmp_path, "decode")
    assert [fault.sample for fault in found] == [1, 3]
    assert found[0].what == "0001.jpg: the image cannot be decoded (cannot identify image file)"
    assert found[1].what.startswith("0003.jpg: the image cannot be decoded (image file is trunc")
    with pytest.raises(DataError, match=r"2 faults in 1 shard; the shards are as they were writ"):
        run("verify", tmp_path, "--level", "decode")


def test_missing_strange_and_exchanged_files_are_found(folder):
    (folder / "0.tar").unlink()
    (folder / "1.tar.index.npy").unlink()
    (folder / "2.tar.index.npy").write_bytes(b"nonsense")
    tar_file(folder / "more.tar", sample_members(1))
    found = {fault.shard: fault.what for fault in faults(folder, "size")}
    assert sorted(found) == ["0.tar", "1.tar", "2.tar", "more.tar"]
    assert "cannot be read" in found["0.tar"] and "cannot be read" in found["1.tar"]
    assert "no index" in found["2.tar"] and "not in manifest" in found["more.tar"]


def test_an_index_of_another_shard_is_found(folder):
    (folder / "1.tar.index.npy").write_bytes((folder / "0.tar.index.npy").read_bytes())
    (found,) = faults(folder, "size")
    assert found.shard == "1.tar" and "not the one" in found.what


def test_labels_above_the_number_of_classes_are_found(folder):
    manifest = Manifest.load(folder)
    Manifest(2, None, manifest.shards).save(folder)
    (folder / "samples.index").unlink()  # that of the manifest before
    found = faults(folder, "size")
    assert [fault.label for fault in found] == [2] * 6
    assert np.unique([fault.sample for fault in found]).tolist() == [2, 5]


def test_a_folder_without_a_manifest_is_refused(tmp_path):
    with pytest.raises(
        DataError, match=rf"manifest\.json: cannot be read .*shards index {tmp_path}"
    ):
        run("verify", tmp_path)


def test_a_joined_index_of_other_shards_is_found_and_made_again(folder):
    path = folder / "samples.index"
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    (fault,) = (fault for check in verify_shards(folder) for fault in check.faults)
    assert fault.shard == "samples.index" and "does not belong to the manifest" in fault.what
    run("index", folder)
    assert path.read_bytes() == good
