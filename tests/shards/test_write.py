import io
import os
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
    assert len(one) == 11
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
        (TASK_1_OF_2, "0/5", [0]),
        (TASK_1_OF_2, "0/1", [0, 1, 2, 3, 4]),
    ],
)
def test_slurm_tasks_share_the_shards_unless_told_otherwise(
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

    refused(tmp_path / "none", tmp_path / "none", "missing")
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
