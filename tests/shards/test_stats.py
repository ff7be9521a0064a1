import numpy as np
from PIL import Image
from support.shard_files import image_folder, jpeg, run, sample_members, tar_file

from rwp_dist.data.dataset import load_dataset
from rwp_dist.data.format.manifest import Manifest
from rwp_dist.shards.stats import TILE, DrawnSample, contact_sheet, draw_samples


def test_figures_are_those_of_the_shards(tmp_path):
    image_folder(tmp_path / "images", classes=("ant", "bee"), per_class=10)
    for i in range(4):
        (tmp_path / "images" / "bee" / f"large_{i}.jpg").write_bytes(jpeg(9000 + i, (60, 50)))
    run("write", tmp_path / "images", "--out", tmp_path / "t", "--samples-per-shard", 10)
    rows = dict(line.split(maxsplit=1) for line in run("stats", tmp_path / "t").splitlines())
    assert rows["shards"] == "3 with 8 samples"
    assert rows["samples"] == "24"
    assert rows["classes"] == "2"
    assert rows["per"].startswith("class   10 / 12 / 14 ")
    assert rows["short"].startswith("side  16 / 16 / 50 ") and "24 random" in rows["short"]
    assert rows["long"].startswith("side   24 / 24 / 60 ")


def test_classes_without_samples_are_counted(tmp_path):
    tar_file(tmp_path / "a.tar", [("a.jpg", jpeg(0)), ("a.cls", b"4")])
    run("index", tmp_path)
    assert "5, 4 of them empty" in run("stats", tmp_path)


def test_drawn_samples_are_real_ones_each_at_most_once(tmp_path):
    for i in range(3):
        tar_file(tmp_path / f"{i}.tar", sample_members(5, first=5 * i))
    run("index", tmp_path)
    dataset = load_dataset([Manifest.load(tmp_path)], 3, cache=None)
    known = {jpeg(i): i % 3 for i in range(15)}
    drawn = draw_samples(dataset, 100)
    assert len(drawn) == 15 and {sample.image: sample.label for sample in drawn} == known
    assert draw_samples(dataset, 4) == draw_samples(dataset, 4) != draw_samples(dataset, 4, seed=1)


def test_the_contact_sheet_shows_every_image_at_its_place(tmp_path):
    tar_file(tmp_path / "a.tar", sample_members(10))
    run("index", tmp_path)
    out = tmp_path / "new" / "sheet.png"
    assert "9 random samples" in run("stats", tmp_path, "--contact-sheet", out, "--samples", 9)
    sheet = Image.open(out)
    assert sheet.width > 8 * TILE and sheet.height > 2 * TILE

    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    drawn = []
    for label, colour in reversed(list(enumerate(colours))):
        Image.new("RGB", (64, 64), colour).save(tmp_path / "x.png")
        drawn.append(DrawnSample(label, (tmp_path / "x.png").read_bytes()))
    contact_sheet(drawn, ("a", "b", "a very long name that cannot fit below a picture"), out)
    pixels = np.asarray(Image.open(out))
    row = [tuple(int(v) for v in pixels[TILE // 2, x]) for x in range(TILE // 2, 500, TILE + 10)]
    assert row == colours
    # Names are written below, none over the edge of its tile.
    below = (pixels[TILE + 15 :] < 128).any(axis=(0, 2))
    assert below.any() and not below[-8:].any()


def test_names_that_are_not_ascii_are_legible_on_the_sheet(tmp_path):
    drawn = [DrawnSample(label, jpeg(0)) for label in range(6)]
    contact_sheet(drawn, ("é", "ß", "ж", "λ", "ő", "…"), tmp_path / "sheet.png")
    pixels = np.asarray(Image.open(tmp_path / "sheet.png").convert("L"))
    below = pixels[TILE + 11 :]
    names = [below[:, at : at + TILE + 10] for at in range(5, 6 * (TILE + 10), TILE + 10)]
    # Letters that a font lacks are all the same box.
    letters = {name[:, TILE // 2 + 5 :].tobytes() for name in names}
    assert len(letters) == 6


def test_bad_images_are_counted_with_the_cure_and_do_not_hide_the_others(tmp_path):
    members = [("a.jpg", b"no image"), ("a.cls", b"0"), ("b.jpg", jpeg(1)), ("b.cls", b"0")]
    tar_file(tmp_path / "a.tar", members)
    run("index", tmp_path)
    said = run("stats", tmp_path, "--contact-sheet", tmp_path / "sheet.png")
    assert "no images   1 of 2; see `shards verify --level decode`" in said
    assert "of 1 random images" in said
    frame, _ = Image.open(tmp_path / "sheet.png").size
    assert frame > TILE
