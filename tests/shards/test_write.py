import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import webdataset as wds
from PIL import Image
from support.shard_files import (
    files,
    image_folder,
    jpeg,
    run,
    sample_members,
    tar_contents,
    tar_file,
)
from support.until import until

from rwp_dist.base.errors import ConfigError, DataError
from rwp_dist.data.format.index import index_name, load_index
from rwp_dist.data.format.manifest import Manifest
from rwp_dist.shards import write
from rwp_dist.shards.verify import verify_shards

TASK_1_OF_2 = {"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}
FLAGS = ("--samples-per-shard", 7)


@pytest.fixture(autouse=True)
def _no_slurm(monkeypatch):
    for name in list(os.environ):
        if name.startswith("SLURM_"):
            monkeypatch.delenv(name)


@pytest.fixture
def source(tmp_path):
    """30 images of 3 classes: their folder, and {content: label}."""
    return tmp_path / "images", image_folder(tmp_path / "images")


def samples_of(folder):
    return [s for shard in sorted(folder.glob("*.tar")) for s in tar_contents(shard)]


def test_every_image_is_in_the_shards_once_shuffled_and_under_its_label(tmp_path, source):
    folder, labels = source
    run("write", folder, "--out", tmp_path / "train", *FLAGS)
    found = samples_of(tmp_path / "train")
    assert len(found) == 30 and {image: label for _, image, label in found} == labels
    sizes = [len(tar_contents(shard)) for shard in sorted((tmp_path / "train").glob("*.tar"))]
    assert sizes == [6] * 5  # as even as can be, none above 7
    # All shards hold every class, though the folder lists them one after the other.
    order = [label for _, _, label in found]
    assert all(len(set(order[i : i + 6])) == 3 for i in range(0, 30, 6))
    # A key leads back to its file.
    key, image, label = found[0]
    name = key.split("_", 1)[1]
    path = folder / ("ant", "bee", "cow")[label] / f"{name}.JPEG"
    assert path.read_bytes() == image
    manifest = Manifest.load(tmp_path / "train")
    assert (manifest.classes, manifest.num_samples) == (("ant", "bee", "cow"), 30)
    assert [shard.name for shard in manifest.shards] == [f"train-{i:06d}.tar" for i in range(5)]
    assert not [c.faults for c in verify_shards(tmp_path / "train", "decode") if c.faults]
    index = load_index(tmp_path / "train" / index_name("train-000000.tar"))
    assert index["label"].tolist() == order[:6]


def test_the_usual_pipeline_of_webdataset_reads_what_is_written(tmp_path, source):
    for number, ending in enumerate(("JPEG", "jpeg", "JPG", "jpg", "PNG")):
        kind = "png" if ending == "PNG" else "jpeg"
        picture = Image.open(io.BytesIO(jpeg(number)))
        picture.save(source[0] / "ant" / f"more{number}.{ending}", format=kind)
    run("write", source[0], "--out", tmp_path / "t")
    tar = str(tmp_path / "t" / "t-000000.tar")
    usual = wds.WebDataset(tar, shardshuffle=False).decode("pil").to_tuple("jpg;png", "cls")
    found = [(image.size, label) for image, label in usual]
    assert len(found) == 35 and {size for size, _ in found} == {(24, 16)}
    assert sorted(label for _, label in found) == [0] * 15 + [1] * 10 + [2] * 10
    with tarfile.open(tar) as written:
        endings = [name.rpartition(".")[2] for name in written.getnames()]
    assert (endings.count("jpg"), endings.count("png"), endings.count("cls")) == (34, 1, 35)


def test_workers_and_parts_change_no_byte_but_the_seed_does(tmp_path, source):
    folder, _ = source
    run("write", folder, "--out", tmp_path / "one" / "t", *FLAGS)
    run("write", folder, "--out", tmp_path / "two" / "t", *FLAGS, "--workers", 2)
    for part in ("1/3", "0/3", "2/3"):
        assert not (tmp_path / "parts" / "t" / "manifest.json").exists()
        said = run("write", folder, "--out", tmp_path / "parts" / "t", *FLAGS, "--part", part)
        assert ("still missing" in said) == (part != "2/3")
    run("write", folder, "--out", tmp_path / "seed" / "t", *FLAGS, "--seed", 1)
    one = files(tmp_path / "one")
    assert len(one) == 12
    assert files(tmp_path / "two") == one
    assert files(tmp_path / "parts") == one
    seed = files(tmp_path / "seed")
    assert sorted(seed) == sorted(one) and all(seed[name] != one[name] for name in one)


@pytest.mark.parametrize(
    ("environment", "option", "written"),
    [
        (TASK_1_OF_2, None, [1, 3]),
        ({**TASK_1_OF_2, "SLURM_JOB_ID": "9", "SLURM_STEP_ID": "0"}, None, [1, 3]),
        # A batch script without srun is alone, whatever it is told.
        ({**TASK_1_OF_2, "SLURM_JOB_ID": "9"}, None, [0, 1, 2, 3, 4]),
        # So is a shell that salloc or `srun --pty` opens, and mpirun starts tasks, too.
        (
            {**TASK_1_OF_2, "SLURM_JOB_ID": "9", "SLURM_STEP_ID": "4294967290"},
            None,
            [0, 1, 2, 3, 4],
        ),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, None, [1, 3]),
        (TASK_1_OF_2, "0/5", [0]),
        (TASK_1_OF_2, "0/1", [0, 1, 2, 3, 4]),
    ],
)
def test_tasks_share_the_shards_unless_told_otherwise(
    tmp_path, source, monkeypatch, environment, option, written
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    more = () if option is None else ("--part", option)
    run("write", source[0], "--out", tmp_path / "t", *FLAGS, *more)
    assert sorted(path.name for path in (tmp_path / "t").glob("*.tar")) == [
        f"t-{i:06d}.tar" for i in written
    ]
    assert (tmp_path / "t" / "manifest.json").exists() == (len(written) == 5)


def test_a_second_call_touches_nothing_and_mends_what_is_broken(tmp_path, source):
    out = tmp_path / "t"
    run("write", source[0], "--out", out, *FLAGS)
    whole = files(out)
    times = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    run("write", source[0], "--out", out, *FLAGS)
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == times
    (out / "t-000001.tar").unlink()
    (out / "t-000002.tar").write_bytes(whole["t-000002.tar"][:-512])
    (out / "t-000003.tar.index.npy").unlink()
    (out / "t-000004.tar.index.npy").write_bytes(b"broken")
    run("write", source[0], "--out", out, *FLAGS)
    assert files(out) == whole
    untouched = out / "t-000000.tar"
    assert untouched.stat().st_mtime_ns == times[untouched]


def test_a_call_that_was_killed_goes_on_and_ends_with_the_same_bytes(tmp_path):
    """kill -9 of the parent alone, in the middle of a shard; its workers end with it."""
    arguments = ["synthetic", "--num", "240", "--size", "200x160", "--classes", "4"]
    arguments += ["--samples-per-shard", "20"]
    run(*arguments, "--out", tmp_path / "whole" / "t")
    out = tmp_path / "killed" / "t"
    code = "from rwp_dist.shards.cli import shards; shards()"
    command = [sys.executable, "-c", code, *arguments, "--workers", "2", "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    until(
        lambda: len(list(out.glob("*.index.npy"))) >= 3 and list(out.glob(".*.tmp")),
        "the fourth shard",
    )
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    until(lambda: not processes_of(process.pid), "the workers' end")
    done = {path.name: path.stat().st_mtime_ns for path in out.glob("*.index.npy")}
    assert 3 <= len(done) < 12 and not (out / "manifest.json").exists()
    with pytest.raises(DataError, match="it has not finished") as unfinished:
        run("verify", out)
    assert "shards index" not in unfinished.value.cure  # that would take these few for all
    with pytest.raises(DataError, match="has not finished; start it again"):
        run("index", out)
    run(*arguments, "--out", out)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    assert all((out / name).stat().st_mtime_ns == stamp for name, stamp in done.items())


def test_a_list_file_gives_numbers_or_names_as_labels(tmp_path, source):
    lines = [f"images/{name}/{name}_0.JPEG\t{label}" for name, label in (("bee", 5), ("ant", 2))]
    (tmp_path / "list.tsv").write_text("\n".join(lines) + "\n\n")
    run("write", tmp_path / "list.tsv", "--out", tmp_path / "a")
    images = {name: (source[0] / name / f"{name}_0.JPEG").read_bytes() for name in ("ant", "bee")}
    found = {label: image for _, image, label in samples_of(tmp_path / "a")}
    assert found == {5: images["bee"], 2: images["ant"]}
    manifest = Manifest.load(tmp_path / "a")
    assert (manifest.num_classes, manifest.classes) == (6, None)
    (tmp_path / "list.tsv").write_text("images/bee/bee_0.JPEG\tB\nimages/ant/ant_0.JPEG\tA\n")
    run("write", tmp_path / "list.tsv", "--out", tmp_path / "b")
    found = {label: image for _, image, label in samples_of(tmp_path / "b")}
    assert found == {1: images["bee"], 0: images["ant"]}
    assert Manifest.load(tmp_path / "b").classes == ("A", "B")


def test_a_list_of_windows_is_read_as_its_editor_shows_it(tmp_path, source):
    lines = "images\\bee\\bee_0.JPEG\tzébu\r\n\r\nimages/ant/ant_0.JPEG\tant\r\n"
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "list.txt").write_bytes(lines.encode(encoding))
        run("write", tmp_path / "list.txt", "--out", tmp_path / encoding)
        found = {label: image for _, image, label in samples_of(tmp_path / encoding)}
        names = {1: "bee/bee_0.JPEG", 0: "ant/ant_0.JPEG"}
        assert found == {label: (source[0] / name).read_bytes() for label, name in names.items()}
        assert Manifest.load(tmp_path / encoding).classes == ("ant", "zébu")


def test_tars_are_shuffled_anew_over_all_of_them(tmp_path):
    for i in range(3):
        tar_file(tmp_path / "in" / f"{i}.tar", sample_members(8, first=8 * i))
    run("write", tmp_path / "in", "--out", tmp_path / "t", "--samples-per-shard", 12)
    run("write", tmp_path / "in" / "{0..2}.tar", "--out", tmp_path / "x" / "t", *FLAGS[:1], 12)
    assert files(tmp_path / "t") == files(tmp_path / "x" / "t")
    found = samples_of(tmp_path / "t")
    assert sorted((image, label) for _, image, label in found) == sorted(
        (jpeg(i), i % 3) for i in range(24)
    )
    first = {image for _, image, _ in found[:12]}
    assert all(first & {jpeg(i) for i in range(8 * k, 8 * k + 8)} for k in range(3))


def test_images_are_shrunk_once_and_small_ones_left_alone(tmp_path):
    folder = tmp_path / "images" / "x"
    folder.mkdir(parents=True)
    (folder / "large.jpg").write_bytes(jpeg(1, (500, 300)))
    (folder / "small.jpg").write_bytes(jpeg(2, (40, 50)))
    Image.new("RGBA", (120, 240), (255, 0, 0, 9)).save(folder / "clear.png")
    run("write", folder.parent, "--out", tmp_path / "t", "--short-side", 60, "--quality", 95)
    found = {key.split("_")[1]: image for key, image, _ in samples_of(tmp_path / "t")}
    images = {name: Image.open(io.BytesIO(content)) for name, content in found.items()}
    assert {name: image.size for name, image in images.items()} == {
        "large": (100, 60),
        "small": (40, 50),
        "clear": (60, 120),
    }
    assert all((image.format, image.mode) == ("JPEG", "RGB") for image in images.values())
    assert found["small"] == jpeg(2, (40, 50))
    # Shrinking averages: the noise is nearly gone and the mean is still there.
    before = np.asarray(Image.open(io.BytesIO(jpeg(1, (500, 300)))), dtype=float)
    after = np.asarray(images["large"], dtype=float)
    assert abs(after.mean() - before.mean()) < 2 and after.std() < before.std() / 2


def test_shards_by_bytes_hold_about_that_many(tmp_path, source):
    folder, labels = source
    total = sum(map(len, labels))
    run("write", folder, "--out", tmp_path / "t", "--shard-bytes", total // 3 + 1)
    assert len(list((tmp_path / "t").glob("*.tar"))) == 3


def test_files_that_are_no_images_are_counted_aloud(tmp_path, source):
    (source[0] / "ant" / "notes.txt").write_text("mine")
    assert "1 file left out" in run("write", source[0], "--out", tmp_path / "t")


def test_other_shards_are_never_mixed_in_or_overwritten(tmp_path, source):
    out = tmp_path / "t"
    run("write", source[0], "--out", out, *FLAGS)
    before = files(out)
    for more in (("--seed", 1), ("--samples-per-shard", 8), ("--short-side", 8)):
        with pytest.raises(DataError, match="give an empty folder"):
            run("write", source[0], "--out", out, *FLAGS, *more)
    with pytest.raises(DataError, match="give an empty folder"):
        run("write", out, "--out", out, *FLAGS)
    assert files(out) == before
    foreign = tar_file(tmp_path / "u" / "u-000000.tar", sample_members(1))
    with pytest.raises(DataError, match=r"u-000000\.tar is here already"):
        run("write", source[0], "--out", tmp_path / "u")
    assert tar_contents(foreign) == [("0000", jpeg(0), 0)]
    tar_file(tmp_path / "v" / "z.tar", sample_members(1))
    with pytest.raises(DataError, match=r"other shards here \(such as z\.tar\)"):
        run("write", source[0], "--out", tmp_path / "v")


def test_sources_that_cannot_be_used_are_named(tmp_path, source):
    def refused(what, *words):
        with pytest.raises(DataError) as caught:
            run("write", what, "--out", tmp_path / "t")
        assert all(str(word) in str(caught.value) for word in words), caught.value
        assert not (tmp_path / "t" / "manifest.json").exists()

    refused(tmp_path / "none", tmp_path / "none", "no such file")
    refused("s3://bucket/x.tar", "shards index")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "neither a folder per class")
    (tmp_path / "splits" / "train").mkdir(parents=True)
    refused(tmp_path / "splits", "splits, not classes", tmp_path / "splits" / "train")
    (source[0] / "dog").mkdir()
    refused(source[0], source[0] / "dog", "no images")
    for line in ("a.jpg 1", "a.jpg\t", "a.txt\t1"):
        (tmp_path / "list").write_text(f"b.jpg\t1\n{line}\n")
        refused(tmp_path / "list", "line 2", "tab")
    for label in ("2147483648", "1" * 5000):
        (tmp_path / "list").write_text(f"b.jpg\t1\na.jpg\t{label}\n")
        refused(tmp_path / "list", f"the label {label[:40]} is too large", "2^31")
    (tmp_path / "list").write_text("gone.jpg\t1\n")
    refused(tmp_path / "list", tmp_path / "gone.jpg", "No such file")
    cut = tar_file(tmp_path / "cut" / "a.tar", sample_members(2))
    cut.write_bytes(cut.read_bytes()[:2048])
    refused(cut, cut, "cut short")


def test_options_that_make_no_sense_are_refused(tmp_path, source):
    for more in (
        ("--part", "2/2"),
        ("--part", "half"),
        ("--samples-per-shard", 5, "--shard-bytes", 5),
        ("--quality", 80),
    ):
        with pytest.raises(ConfigError, match=more[0]):
            run("write", source[0], "--out", tmp_path / "t", *more)
    with pytest.raises(ConfigError, match="500x375"):
        run("synthetic", "--num", 1, "--size", "big", "--out", tmp_path / "t")


def test_a_bad_image_stops_a_shrinking_write_by_its_name(tmp_path, source):
    (source[0] / "bee" / "bee_3.JPEG").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"bee_3\.JPEG: this is no readable image"):
        run("write", source[0], "--out", tmp_path / "t", "--short-side", 8)
    # Good again, the call goes on.
    (source[0] / "bee" / "bee_3.JPEG").write_bytes(jpeg(7))
    run("write", source[0], "--out", tmp_path / "t", "--short-side", 8)
    assert Manifest.load(tmp_path / "t").num_samples == 30


def test_up_to_so_many_unreadable_images_are_left_out_counted_and_listed(tmp_path, source):
    folder, labels = source
    whole = [image for image in labels if image != (folder / "ant" / "ant_1.JPEG").read_bytes()]
    whole.remove((folder / "bee" / "bee_3.JPEG").read_bytes())
    cut = (folder / "ant" / "ant_1.JPEG").read_bytes()
    (folder / "ant" / "ant_1.JPEG").write_bytes(cut[: len(cut) // 2])
    (folder / "bee" / "bee_3.JPEG").write_bytes(b"")
    out = tmp_path / "t"
    with pytest.raises(DataError, match=r"bee_3\.JPEG is empty .* without it .* by --max-bad N"):
        run("write", folder, "--out", out, *FLAGS)
    with pytest.raises(
        DataError, match=r"2 images cannot be read, more than --max-bad 1; .* raise"
    ):
        run("write", folder, "--out", out, *FLAGS, "--max-bad", 1)
    assert not (out / "manifest.json").exists()
    said = run("write", folder, "--out", out, *FLAGS, "--max-bad", 2)
    assert "2 images left out" in said and "28 samples in 5 shards" in said
    assert {image for _, image, _ in samples_of(out)} == set(whole)
    assert Manifest.load(out).num_samples == 28
    lines = (out / "bad_samples.tsv").read_text().splitlines()
    assert {line.split("\t")[0] for line in lines} == {"ant/ant_1.JPEG", "bee/bee_3.JPEG"}
    assert not [c.faults for c in verify_shards(out, "decode") if c.faults]
    # The same with several processes; and a lower limit does not take what a higher one wrote.
    run("write", folder, "--out", tmp_path / "u" / "t", *FLAGS, "--max-bad", 9, "--workers", 2)
    assert files(tmp_path / "u" / "t") == files(out)
    with pytest.raises(DataError, match="--max-bad N"):
        run("write", folder, "--out", out, *FLAGS)
    # Mended, they are written, and the list goes.
    (folder / "ant" / "ant_1.JPEG").write_bytes(cut)
    (folder / "bee" / "bee_3.JPEG").write_bytes(jpeg(99))
    run("write", folder, "--out", out, *FLAGS, "--max-bad", 2)
    assert Manifest.load(out).num_samples == 30 and not (out / "bad_samples.tsv").exists()


@pytest.mark.parametrize("tars", [False, True])
def test_images_replaced_under_their_names_sizes_and_dates_are_written_anew(tmp_path, tars):
    place, out = tmp_path / "in" / "a", tmp_path / "t"
    place.mkdir(parents=True)
    for i in range(4):
        (place / f"{i}.jpg").write_bytes(jpeg(i))
    source = tar_file(tmp_path / "s" / "0.tar", sample_members(4)) if tars else place / "2.jpg"
    given = ("write", source.parent if tars else tmp_path / "in", "--out", out)
    run(*given, "--samples-per-shard", 2)
    before, known = files(out), source.stat()
    data = bytearray(source.read_bytes())
    at = data.index(jpeg(2)) + len(jpeg(2)) - 3  # of the compressed pixels
    data[at] ^= 1
    source.write_bytes(data)
    os.utime(source, ns=(known.st_atime_ns, known.st_mtime_ns))
    said = run(*given, "--samples-per-shard", 2)
    assert "1 shard kept, 1 made anew" in said
    after = files(out)
    assert sum(after[name] != before[name] for name in before if name.endswith(".tar")) == 1
    new = bytearray(jpeg(2))
    new[-3] ^= 1
    assert {image for _, image, _ in samples_of(out)} == {jpeg(0), jpeg(1), bytes(new), jpeg(3)}
    assert not [c.faults for c in verify_shards(out) if c.faults]


def test_a_part_writes_into_the_manifest_what_another_has_made_anew_meanwhile(
    tmp_path, source, monkeypatch
):
    folder, out, one = source[0], tmp_path / "t", ("--workers", 1)
    run("write", folder, "--out", out, *FLAGS, "--part", "1/2", *one)
    pack = write.pack_shard

    def pack_after_the_other_part(job):
        if write.pack_shard is pack:  # for the second job
            return pack(job)
        monkeypatch.setattr(write, "pack_shard", pack)
        for number, path in enumerate(sorted(folder.glob("*/*.JPEG"))):
            path.write_bytes(jpeg(5000 + number))
        assert "2 made anew" in run("write", folder, "--out", out, *FLAGS, "--part", "1/2", *one)
        return pack(job)

    monkeypatch.setattr(write, "pack_shard", pack_after_the_other_part)
    run("write", folder, "--out", out, *FLAGS, "--part", "0/2", *one)
    assert not [check.faults for check in verify_shards(out) if check.faults]


def test_a_source_that_was_copied_is_compared_and_its_shards_are_kept(tmp_path, source):
    run("write", source[0], "--out", tmp_path / "t", *FLAGS)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "t").iterdir()}
    for path in source[0].rglob("*.JPEG"):
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)
    said = run("write", source[0], "--out", tmp_path / "t", *FLAGS)
    assert "5 shards kept." in said
    kept = {path: path.stat().st_mtime_ns for path in times if path.is_file()}
    assert kept == {path: stamp for path, stamp in times.items() if path.is_file()}


def test_records_of_version_0_1_go_by_their_time(tmp_path, source):
    run("write", source[0], "--out", tmp_path / "t")
    (path,) = (tmp_path / "t" / ".written").iterdir()
    record = json.loads(path.read_text())
    del record["made_from"]
    path.write_text(json.dumps(record))
    assert "1 shard kept." in run("write", source[0], "--out", tmp_path / "t")
    os.utime(path, ns=(0, 0))
    (source[0] / "ant" / "ant_0.JPEG").write_bytes(jpeg(99))
    assert "1 made anew" in run("write", source[0], "--out", tmp_path / "t")
    assert jpeg(99) in {image for _, image, _ in samples_of(tmp_path / "t")}


def test_synthetic_images_weigh_what_photographs_do(tmp_path):
    run("synthetic", "--num", 12, "--classes", 3, "--out", tmp_path / "t")
    found = samples_of(tmp_path / "t")
    assert sorted(label for _, _, label in found) == [0] * 4 + [1] * 4 + [2] * 4
    assert len({image for _, image, _ in found}) == 12
    assert 100_000 < np.mean([len(image) for _, image, _ in found]) < 120_000
    assert all(Image.open(io.BytesIO(image)).size == (500, 375) for _, image, _ in found)


def processes_of(session):
    """Processes of a session that still run."""
    listed = subprocess.run(
        ["ps", "-o", "pid=,stat=", "-s", str(session)], capture_output=True, text=True
    ).stdout
    return [line for line in listed.splitlines() if line.split()[1][0] != "Z"]


def labels_by_class(folder):
    """{class in a sample's key: its labels in the shards}."""
    found = {}
    for key, _, label in samples_of(folder):
        found.setdefault(key.split("_")[1], set()).add(label)
    return found


def test_a_folder_that_lacks_a_class_gets_the_labels_of_other_shards(tmp_path, source):
    run("write", source[0], "--out", tmp_path / "train")
    image_folder(tmp_path / "v", classes=("ant", "cow"), per_class=2)
    run("write", tmp_path / "v", "--out", tmp_path / "val", "--classes-of", tmp_path / "train")
    assert sorted(label for _, _, label in samples_of(tmp_path / "val")) == [0, 0, 2, 2]
    manifest = Manifest.load(tmp_path / "val")
    assert (manifest.classes, manifest.num_classes) == (("ant", "bee", "cow"), 3)
    # So do a list of names, a list of labels and shards with the labels of their own.
    (tmp_path / "names.tsv").write_text("v/cow/cow_0.JPEG\tcow\n")
    (tmp_path / "labels.tsv").write_text("v/cow/cow_0.JPEG\t2\n")
    run("write", tmp_path / "v", "--out", tmp_path / "own")
    for name, labels in (("names.tsv", [2]), ("labels.tsv", [2]), ("own", [0, 0, 2, 2])):
        out = tmp_path / f"from-{name.removesuffix('.tsv')}"
        run("write", tmp_path / name, "--out", out, "--classes-of", tmp_path / "train")
        assert sorted(label for _, _, label in samples_of(out)) == labels
        assert Manifest.load(out).classes == ("ant", "bee", "cow")


def test_classes_and_labels_that_the_other_shards_lack_are_refused(tmp_path, source):
    image_folder(tmp_path / "two", classes=("ant", "bee"), per_class=2)
    run("write", tmp_path / "two", "--out", tmp_path / "other")
    (tmp_path / "labels.tsv").write_text("two/ant/ant_0.JPEG\t2\n")
    tar_file(tmp_path / "nameless" / "a.tar", sample_members(3))
    run("index", tmp_path / "nameless")
    for what, of, words in (
        (source[0], "other", "other: has no class 'cow'"),
        (tmp_path / "labels.tsv", "other", "has the labels 0..1, and here is a label 2"),
        (source[0], "nameless", "no names of their classes; index them again"),
        (source[0], "none", "there are no shards here"),
    ):
        with pytest.raises(DataError, match=re.escape(words)) as caught:
            run("write", what, "--out", tmp_path / "out", "--classes-of", tmp_path / of)
        assert str(caught.value).startswith("--classes-of: ")
    assert not (tmp_path / "out").exists()


LEFTOVERS = ["@eaDir", ".thumbnails", ".ipynb_checkpoints", "#recycle", "__MACOSX", "ant/@eaDir"]


def test_leftovers_of_file_servers_and_notebooks_are_no_classes_and_no_images(tmp_path, source):
    folder, labels = source
    for number, name in enumerate(LEFTOVERS):
        (folder / name / "x").mkdir(parents=True)
        (folder / name / "x" / "thumb.jpg").write_bytes(jpeg(5000 + number))
    for name in ("Thumbs.db", ".DS_Store", "._ant_0.jpg"):
        (folder / "ant" / name).write_bytes(b"left over")
    (folder / ".DS_Store").write_bytes(b"left over")
    said = run("write", folder, "--out", tmp_path / "t")
    assert {image: label for _, image, label in samples_of(tmp_path / "t")} == labels
    assert Manifest.load(tmp_path / "t").classes == ("ant", "bee", "cow")
    assert "3 files left out" in said
    assert "6 folders left out (hidden, or of a file server or system): #recycle, " in said


def test_class_names_that_are_numbers_sort_as_numbers(tmp_path):
    names = [str(i) for i in range(12)]
    image_folder(tmp_path / "in", classes=names, per_class=1)
    said = run("write", tmp_path / "in", "--out", tmp_path / "t")
    assert labels_by_class(tmp_path / "t") == {name: {int(name)} for name in names}
    assert Manifest.load(tmp_path / "t").classes == tuple(names)
    assert "numbers" not in said


def test_class_names_that_are_other_numbers_than_their_labels_are_said(tmp_path):
    image_folder(tmp_path / "in", classes=("1", "2", "10"), per_class=1)
    said = run("write", tmp_path / "in", "--out", tmp_path / "t")
    assert Manifest.load(tmp_path / "t").classes == ("1", "2", "10")
    assert (
        "names of classes are numbers but not their labels: 1 has label 0, 2 has label 1, 10 has "
        "label 2." in said
    )
