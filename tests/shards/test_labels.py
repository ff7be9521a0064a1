"""ImageNet's validation images, and others whose labels are in a table."""

import shutil

import pytest
from support.shard_files import image_folder, jpeg, run, tar_contents, tar_file

from rwp_dist.base.errors import DataError
from rwp_dist.data.format.manifest import Manifest

CLASSES = ("n01440764", "n01443537", "n01484850")
NAMES = [f"ILSVRC2012_val_{number:08d}" for number in range(1, 7)]
LABELS = [2, 0, 1, 1, 0, 2]
PAIRS = list(zip(NAMES, LABELS, strict=True))

TABLES = {
    "LOC_val_solution.csv": "ImageId,PredictionString\n"
    + "".join(f"{n},{CLASSES[i]} 85 1 499 272 {CLASSES[i]} 1 2 3 4 \n" for n, i in PAIRS),
    "val.txt": "".join(f"{n}.JPEG {i}\n" for n, i in PAIRS),
    "with a folder": "".join(f"val/{n}.JPEG {CLASSES[i]}\n" for n, i in PAIRS),
    "of Windows": "\ufeff" + "".join(f"val\\{n}.JPEG;{i}\r\n" for n, i in PAIRS) + "\r\n",
    "of pandas": "image_id,label\n" + "".join(f'"{n}.JPEG","{CLASSES[i]}"\n' for n, i in PAIRS),
    "tabs": "".join(f"{n}\t{i}\n" for n, i in reversed(PAIRS)),
}


@pytest.fixture
def val(tmp_path):
    """A flat folder of images, and {content: label}."""
    folder = tmp_path / "val"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        (folder / f"{name}.JPEG").write_bytes(jpeg(number))
    return folder, {jpeg(number): label for number, label in enumerate(LABELS)}


def written(tmp_path, source, table, *more):
    """What a command says, and {content: label} of its shards."""
    said = run("write", source, "--out", tmp_path / "out", "--labels", table, *more)
    shards = sorted((tmp_path / "out").glob("*.tar"))
    return said, {image: label for s in shards for _, image, label in tar_contents(s)}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("packed", [False, True])
def test_a_table_gives_the_labels_of_images_in_one_folder_or_tar(tmp_path, val, name, packed):
    folder, labels = val
    source = folder
    if packed:
        members = [(f"{n}.JPEG", (folder / f"{n}.JPEG").read_bytes()) for n in NAMES]
        source = tar_file(tmp_path / "ILSVRC2012_img_val.tar", members)
    image_folder(tmp_path / "in", classes=CLASSES, per_class=1)
    run("write", tmp_path / "in", "--out", tmp_path / "train")
    table = tmp_path / name
    table.write_bytes(TABLES[name].encode())
    _, found = written(tmp_path, source, table, "--classes-of", tmp_path / "train")
    assert found == labels
    assert Manifest.load(tmp_path / "out").classes == CLASSES


def test_images_without_a_row_are_left_out_and_counted(tmp_path, val):
    table = val[0] / "labels.csv"
    table.write_text("id,breed\n" + "".join(f"{n},{CLASSES[i]}\n" for n, i in PAIRS[:4]))
    said, found = written(tmp_path, val[0], table)
    assert sorted(found.values()) == [0, 1, 1, 2]
    assert "3 files left out (2 x image without a row in the table, 1 x name without" in said


def test_tables_that_do_not_fit_are_refused_with_the_cure(tmp_path, val):
    shutil.copytree(val[0], tmp_path / "two" / "a")
    shutil.copytree(val[0], tmp_path / "two" / "b")
    good = TABLES["val.txt"]
    for source, text, words in (
        (val[0], "490\n361\n", "numbers alone, as in ImageNet's devkit.*LOC_val_solution.csv"),
        (val[0], good + "other.JPEG 1\n", "1 of 7 names are not in .*val once, such as other.JPEG"),
        (val[0], good + good.splitlines()[0], r"ILSVRC2012_val_00000001.JPEG stands there twice"),
        (val[0], "a,b\n", "1 of 1 names|0 of 0 names"),
        (val[0], "", "empty"),
        (val[0], f"{good}x.JPEG\n", "row 7 is 'x.JPEG'; write two columns"),
        (val[0], good.replace(" ", ",") + f"{NAMES[0]},1,2\n", "row 7 is .*two columns"),
        (val[0], good + f"{NAMES[0]} {2**31}\n", "twice|too large"),
        (tmp_path / "two", good, "6 of 5 names|of 6 names are not in .*two once|of 5 names"),
        (tmp_path / "none", good, "none: cannot be read"),
    ):
        table = tmp_path / "table"
        table.write_text(text)
        with pytest.raises(DataError, match=words) as caught:
            written(tmp_path, source, table)
        assert caught.value.cure
    assert not (tmp_path / "out").exists()
    (tmp_path / "binary").write_bytes(bytes(range(128, 256)))
    for table in ("binary", "nowhere"):
        with pytest.raises(DataError, match="this is no table"):
            written(tmp_path, val[0], tmp_path / table)


def test_images_in_one_folder_without_a_table_are_refused_with_the_flag(tmp_path, val):
    with pytest.raises(DataError, match=r"val: 6 images without classes; .*--labels FILE"):
        run("write", val[0], "--out", tmp_path / "out")


def test_images_beside_folders_of_classes_are_counted(tmp_path):
    image_folder(tmp_path / "in", per_class=1)
    (tmp_path / "in" / "cover.jpg").write_bytes(jpeg(99))
    said = run("write", tmp_path / "in", "--out", tmp_path / "out")
    assert "1 file left out (1 x image beside the folders)" in said


def test_a_row_of_another_folder_is_no_row_of_an_image_of_that_name(tmp_path):
    tar_file(tmp_path / "in.tar", [("dogs/1.jpg", jpeg(1)), ("dogs/2.jpg", jpeg(2))])
    table = tmp_path / "table.csv"
    table.write_text("cats/1.jpg,cat\ndogs/2.jpg,dog\n")
    with pytest.raises(DataError, match=r"1 of 2 names are not in .* such as cats/1\.jpg"):
        written(tmp_path, tmp_path / "in.tar", table)


def test_a_first_row_with_the_name_of_a_missing_image_is_no_header(tmp_path):
    tar_file(tmp_path / "in.tar", [("1.jpg", jpeg(1))])
    (tmp_path / "table.csv").write_text("0.jpg,7\n1.jpg,3\n")
    with pytest.raises(DataError, match=r"1 of 2 names are not in .* such as 0\.jpg"):
        written(tmp_path, tmp_path / "in.tar", tmp_path / "table.csv")


def test_whole_numbers_with_a_point_are_labels_and_other_numbers_are_refused(tmp_path):
    tar_file(tmp_path / "in.tar", [(f"{i}.jpg", jpeg(i)) for i in range(12)])
    table = tmp_path / "table.csv"
    table.write_text("".join(f"{i}.jpg,{i}.0\n" for i in range(12)))
    _, found = written(tmp_path, tmp_path / "in.tar", table)
    assert found == {jpeg(i): i for i in range(12)}
    for odd in ("1.5", "1_0", "-1", "+1", "١"):
        table.write_text("".join(f"{i}.jpg,{i or odd}\n" for i in range(12)))
        with pytest.raises(DataError, match="no whole number from 0"):
            written(tmp_path, tmp_path / "in.tar", table)
