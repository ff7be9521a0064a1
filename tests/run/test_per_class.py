"""Accuracy of classes and what is confused: counted on all ranks, written, drawn."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from support.ranks import run_ranks

from rwp_dist.base.errors import RunDirError, SettingsError
from rwp_dist.config import load_settings
from rwp_dist.process.group import process_group
from rwp_dist.record.directory import RunDir
from rwp_dist.run.per_class import Confusion, PerClass, class_names
from rwp_dist.run.per_class_files import write_per_class
from rwp_dist.run.per_class_plot import draw_per_class
from rwp_dist.shards.digits import write_digits
from rwp_dist.train import train

COUNTS = np.array([[3, 1, 0], [0, 0, 0], [2, 4, 4]])
NAMES = ("ant", "bee, or wasp", "cow")


def test_counts_are_those_of_samples_with_weight(tmp_path):
    logits = torch.eye(3)[[0, 0, 1, 2, 2]]
    labels, weights = torch.tensor([0, 2, 1, 2, 1]), torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0])
    with process_group(torch.device("cpu")):
        found = Confusion(3, torch.device("cpu"))
        for part in (slice(0, 2), slice(2, 5)):
            found.add(logits[part], labels[part], weights[part])
        assert found.counts().tolist() == [[1, 0, 0], [0, 1, 1], [1, 0, 0]]


def test_of_several_right_classes_the_most_probable_one_counts():
    logits = torch.tensor([[0.0, 1.0, 2.0], [5.0, 1.0, 2.0]])
    masks = torch.tensor([[True, True, True], [False, True, True]])
    with process_group(torch.device("cpu")):
        found = Confusion(3, torch.device("cpu"))
        found.add(logits, masks, torch.ones(2))
        assert found.counts().tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 1]]


def test_accuracies_worst_classes_and_confused_pairs():
    found = PerClass(NAMES, COUNTS)
    assert found.top1 == [75.0, None, 40.0]
    assert found.worst(5) == [2, 0]
    assert found.confused() == [(2, 1, 4), (2, 0, 2), (0, 1, 1)]


def test_names_that_lack_are_numbers():
    assert class_names(("a", "b"), 4) == ["a", "b", "2", "3"]
    assert class_names(None, 2) == ["0", "1"]
    assert class_names(("a", "b"), 1) == ["a"]


def test_files_say_the_same(tmp_path):
    path = write_per_class(RunDir(tmp_path), "val", PerClass(NAMES, COUNTS), {"step": 7})
    content = json.loads(path.with_name("val.json").read_text())
    assert content["step"] == 7
    assert [entry["class"] for entry in content["classes"]] == list(NAMES)
    assert [entry["images"] for entry in content["classes"]] == [4, 0, 10]
    assert [entry["top1"] for entry in content["classes"]] == [75.0, None, 40.0]
    assert content["confused"][0] == [2, 1, 4]
    rows = list(csv.reader(path.with_name("val.csv").open()))
    assert rows[1:] == [
        ["ant", "4", "75.00", "bee, or wasp", "1"],
        ["bee, or wasp", "0", "", "", "0"],
        ["cow", "10", "40.00", "bee, or wasp", "4"],
    ]
    head, *matrix = csv.reader(path.with_name("val-confusion.csv").open())
    assert head == ["right class", *NAMES]
    assert [[int(cell) for cell in row[1:]] for row in matrix] == COUNTS.tolist()
    with Image.open(path.with_name("val.png")) as image:
        assert image.width > 1000


@pytest.mark.parametrize("num", [2, 10, 100, 1000])
def test_a_picture_of_any_number_of_classes_is_of_a_size_that_one_can_look_at(num):
    draw = np.random.default_rng(0)
    counts = draw.poisson(2.0 / num, (num, num)) + np.diag(draw.integers(0, 50, num))
    names = [f"class {number} 犬 $x_1$" for number in range(num)]
    picture = draw_per_class(PerClass(names, counts))
    assert picture.startswith(b"\x89PNG") and len(picture) < 1_000_000


def test_a_network_without_mistakes_and_one_without_images_have_pictures():
    for counts in (np.diag([3, 4]), np.zeros((30, 30), int), np.zeros((300, 300), int)):
        assert draw_per_class(PerClass([str(n) for n in range(len(counts))], counts))


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "per_class").write_text("in the way")
    with pytest.raises(RunDirError, match=r"per_class: cannot be written .*; make the run"):
        write_per_class(RunDir(tmp_path), "val", PerClass(NAMES, COUNTS), {})


def trained(folder, data):
    settings = load_settings(
        None,
        [
            *(f"data.train={data}/train", f"data.val={data}/test", f"run.dir={folder}"),
            *("run.device=cpu", "schedule.steps=6", "batch.global=64", "batch.per_rank=32"),
            *("evaluation.per_class=true", "tracking.wandb=off", "data.workers=0"),
        ],
    )
    return train(settings)


def test_training_counts_all_samples_of_all_ranks(tmp_path):
    write_digits(tmp_path / "data")
    summary, _ = run_ranks(trained, 2, tmp_path / "run", tmp_path / "data")
    run = RunDir(tmp_path / "run")
    content = json.loads((run.per_class / "val.json").read_text())
    images = [entry["images"] for entry in content["classes"]]
    hits = sum(e["images"] * e["top1"] / 100 for e in content["classes"])
    assert 100 * hits / sum(images) == pytest.approx(summary["top1"])
    assert (content["step"], sum(images)) == (6, 797)
    assert sorted(path.name for path in run.per_class.iterdir()) == [
        "val-confusion.csv",
        "val.csv",
        "val.json",
        "val.png",
    ]


def test_a_matrix_that_would_not_fit_is_refused_before_torch_is_loaded():
    with pytest.raises(SettingsError, match=r"per_class: a confusion matrix has at most 5,000"):
        load_settings(None, ["model.num_classes=5001", "evaluation.per_class=true"])
