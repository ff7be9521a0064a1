"""``rwp-dist evaluate RUN --data``: other data for the network, whatever they call classes."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from support.evaluations import evaluated, measured_numbers, untrained_run, write_checkpoint
from support.ranks import run_ranks
from support.stream_sets import CLASSES, read_source, rename_classes, write_set
from torch.nn import functional as F

from rwp_dist.cli import main
from rwp_dist.compare.runs import _is_other
from rwp_dist.config import load_settings
from rwp_dist.data.open import open_eval
from rwp_dist.evaluation.class_map import read_class_map
from rwp_dist.evaluation.other_data import SeveralRight
from rwp_dist.run.evaluate import load_network
from rwp_dist.run.task import Classification
from rwp_dist.shards.samples import Samples, Source
from rwp_dist.shards.sources import Listing
from rwp_dist.shards.write import write_shards

NUM = 29
NAMES = tuple(f"class-{number}" for number in range(CLASSES))


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """The run's evaluation samples, and a folder for others."""
    folder = tmp_path_factory.mktemp("sets")
    write_set(folder / "val", num=NUM)
    return folder


@pytest.fixture
def run(sets, tmp_path):
    run = untrained_run(tmp_path / "run", sets / "val")
    classes = {"num": CLASSES, "names": NAMES, "place": "shards/train"}
    parts = {"history": {"classes": classes}}
    write_checkpoint(run, load_settings(run.config), parts=parts)
    return run


def invoke(*arguments):
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


def numbers_on(run, data, *arguments):
    """What is measured on other data, by the names of the numbers."""
    result = invoke(run.path, "--data", data, *arguments)
    assert result.exit_code == 0, result.output
    key = result.stdout.split(": ")[1]
    content = run.read_measurement(f"evaluation-{key}")
    return {name.removeprefix(f"{key}."): value for name, value in content["numbers"].items()}


def own_numbers(run):
    result = invoke(run.path)
    assert result.exit_code == 0, result.output
    return run.read_measurement("evaluation")["numbers"]


def written(out, labels, classes, names=None):
    """Shards of the same images with other labels, classes and names of files."""
    names = names or [f"{number:04d}.jpg" for number in range(len(labels))]
    samples = Samples(
        Source(name, "jpg", label, "", number)
        for number, (name, label) in enumerate(zip(names, labels, strict=True))
    )
    write_shards(Listing(samples, classes, read_source), out, samples_per_shard=7)
    return out


def logits_of(run, data):
    """Of all samples in the order of the shards, computed in one batch; and their labels."""
    settings = load_settings(run.config, [f"data.val={data}", "batch.per_rank=29"])
    model = load_network(settings, run.newest_checkpoint(), torch.device("cpu")).eval()
    [step] = open_eval(settings, 0, 1).steps()
    [batch] = step.batches
    with torch.no_grad():
        return model((batch.images / 255 - 0.5) / 0.25), batch.labels


# --- classes by name, number and map: the same images have the same numbers ---


def test_classes_of_the_same_names_in_another_order_are_the_same(run, sets):
    names = ("class-2", "class-4", "class-0", "class-1", "class-3")
    labels = [names.index(f"class-{number % CLASSES}") for number in range(NUM)]
    data = written(sets / "turned", labels, names)
    assert numbers_on(run, data) == pytest.approx(own_numbers(run))


def test_class_names_that_are_numbers_are_those_of_the_network_in_whatever_order(run, sets):
    """ImageNet-V2: as text 10 comes before 2, so a label need not be its folder's name."""
    names = ("0", "3", "1", "2", "4")
    labels = [names.index(str(number % CLASSES)) for number in range(NUM)]
    data = written(sets / "v2", labels, names)
    assert numbers_on(run, data) == pytest.approx(own_numbers(run))
    text = "the names of its classes are numbers, and taken as those of the network's"
    assert text in invoke(run.path, "--data", data).stderr


@pytest.mark.parametrize("kind", ["names", "numbers", "mixed", "lines"])
def test_a_map_says_what_classes_of_other_names_are(kind, run, sets, tmp_path):
    names = ("ant", "bee", "cow", "dog", "elk")
    data = written(sets / f"animals-{kind}", [n % CLASSES for n in range(NUM)][::-1], names)
    meant = [NAMES[(NUM - 1 - n) % CLASSES] for n in range(CLASSES)]  # of the first images
    meant = {names[(NUM - 1 - n) % CLASSES]: NAMES[n] for n in range(CLASSES)}
    path = tmp_path / "map"
    if kind == "lines":
        path.write_text("".join(f"{name}\t{own}\n" for name, own in meant.items()))
    else:
        one = {"names": lambda n: n, "numbers": NAMES.index, "mixed": lambda n: [NAMES.index(n)]}
        path.write_text(json.dumps({name: one[kind](own) for name, own in meant.items()}))
    assert numbers_on(run, data, "--classes", path) == pytest.approx(own_numbers(run))


def test_only_the_classes_that_the_data_have_are_answers(run, sets, tmp_path):
    """ImageNet-A and -R: 200 of 1,000 classes; their own shards name them, or a list."""
    own = ("class-1", "class-3")
    labels = [number % 2 for number in range(NUM)]
    data = written(sets / "a", labels, own)
    logits, labels = logits_of(run, data)
    some = logits[:, [1, 3]]
    expected = {
        "top1": 100 * (some.argmax(1) == labels).float().mean().item(),
        "top5": 100.0,
        "nll": F.cross_entropy(some, labels).item(),
    }
    found = numbers_on(run, data, "--classes", data)
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    for text in ("class-3\nclass-1\n", "[3, 1]", '["class-1", 3]', "1\n3\n"):
        (tmp_path / "map").write_text(text)
        assert numbers_on(run, data, "--classes", tmp_path / "map") == found

    among_all = numbers_on(run, data)
    nll = F.cross_entropy(logits, torch.tensor([1, 3])[labels]).item()
    assert among_all["nll"] == pytest.approx(nll)
    told = invoke(run.path, "--data", data)
    assert "it has 2 of the network's 5 classes, and all of these are possible" in told.stderr
    told = invoke(run.path, "--data", data, "--classes", data)
    assert f"({NUM} images of 2 classes)" in told.stdout and told.stderr.count("possible") == 0


def test_images_of_classes_that_a_list_lacks_are_left_out(run, sets, tmp_path):
    """As ImageNet's own images of ImageNet-A's 200 classes."""
    (tmp_path / "map").write_text("class-1\nclass-3\n")
    told = invoke(run.path, "--data", sets / "val", "--classes", tmp_path / "map")
    assert "(12 images of 2 classes, 17 without a right class)" in told.stdout


def test_labels_without_names_are_those_of_the_list(run, sets, tmp_path):
    data = written(sets / "unnamed", [number % 2 for number in range(NUM)], None)
    named = written(sets / "named", [number % 2 for number in range(NUM)], ("class-1", "class-3"))
    (tmp_path / "map").write_text("class-1\nclass-3\n")
    expected = numbers_on(run, named, "--classes", named)
    assert numbers_on(run, data, "--classes", tmp_path / "map") == expected


# --- several right classes of an image (ReaL) ---


@pytest.mark.parametrize("kind", ["by number", "by name"])
def test_any_of_an_images_right_classes_is_right_and_images_without_one_are_left_out(
    kind, run, sets, tmp_path
):
    names = [f"val_{number:08d}.JPEG" for number in range(1, NUM + 1)]
    data = sets / "real"
    if not data.exists():
        written(data, [number % CLASSES for number in range(NUM)], NAMES, names)
    draw = np.random.default_rng(0)
    right = [sorted(set(draw.integers(0, CLASSES, size).tolist())) for size in [0, 1, 2, 3] * 7]
    right += [[4]]
    content = right if kind == "by number" else dict(zip(names, right, strict=True))
    (tmp_path / "real.json").write_text(json.dumps(content))

    logits, _ = logits_of(run, data)
    rows = _rows_of(data)
    hits, in_five, nlls = [], [], []
    for place, number in enumerate(rows):
        if right[number]:
            p = logits[place].softmax(0)
            hits.append(int(p.argmax()) in right[number])
            in_five.append(bool(set(p.topk(5).indices.tolist()) & set(right[number])))
            nlls.append(-p[right[number]].sum().log().item())
    found = numbers_on(run, data, "--classes", tmp_path / "real.json")
    assert len(hits) == NUM - 7
    expected = {"top1": np.mean(hits) * 100, "top5": np.mean(in_five) * 100, "nll": np.mean(nlls)}
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    told = invoke(run.path, "--data", data, "--classes", tmp_path / "real.json", "--per-class")
    assert "(22 images, 7 without a right class)" in told.stdout


def _rows_of(data):
    """Which of the listed files each sample of the shards is."""
    import re
    import tarfile

    found = []
    for path in sorted(data.glob("*.tar")):
        with tarfile.open(path) as tar:
            found += [int(re.findall(r"_(\d+)\.jpg$", n)[0]) for n in tar.getnames() if "jpg" in n]
    return [number - 1 for number in found]


def test_with_one_right_class_each_several_right_ones_are_the_usual_metrics():
    logits, labels = torch.randn(50, 7), torch.randint(0, 7, (50,))
    weights = torch.ones(50)
    weights[3] = 0
    masks = F.one_hot(labels, 7).bool()
    for metric in ("nll", "hits", "calibration"):
        one, several = (getattr(task, metric) for task in (Classification(), SeveralRight()))
        found, expected = several(logits, masks, weights), one(logits, labels, weights)
        torch.testing.assert_close(found.double(), expected.double(), rtol=1e-5, atol=1e-6)


# --- ranks, the run's record, compare ---


def on_other_data(run_dir, data, path):
    overrides = [f"data.val={data}", "batch.per_rank=3"]
    class_map = read_class_map(path)
    settings = load_settings(run_dir.config, overrides)
    return evaluated(settings, other=True, class_map=class_map)


def test_ranks_and_batches_change_nothing(run, sets, tmp_path):
    names = [f"val_{number:08d}.JPEG" for number in range(1, NUM + 1)]
    data = written(tmp_path / "real", [number % CLASSES for number in range(NUM)], NAMES, names)
    right = [[number % 3, number % 5] if number % 4 else [] for number in range(NUM)]
    (tmp_path / "real.json").write_text(json.dumps(right))
    alone = invoke(run.path, "--data", data, "--classes", tmp_path / "real.json").stdout
    printed = run_ranks(on_other_data, 2, run, data, tmp_path / "real.json")
    assert printed[0].splitlines()[-1] == alone.strip() and printed[1] == ""


def test_numbers_on_several_data_sets_stay_beside_each_other_and_compare_knows_them(run, sets):
    one = written(sets / "one.data", [0, 1, 2], NAMES[:3])
    other = written(sets / "two", [2, 2], NAMES[:3])
    invoke(run.path)
    for data in (one, other):
        numbers_on(run, data)
        numbers_on(run, data, "--classes", data, "--bits", "8")
    found = measured_numbers(run)
    keys = {name.partition(".")[0] for name in found if "@" in name}
    assert sorted(key.partition("@")[0] for key in keys) == ["one_data", "one_data", "two", "two"]
    assert sum(name.endswith("bits.8.top1") for name in found) == 2
    assert {"top1", "nll"} <= found.keys()

    identity = {"data.val.id": run.read_measurement("evaluation")["subject"]["data"][:16]}
    for content in run.read_measurements():
        assert not _is_other(content["subject"], identity)
    result = invoke(run.path, "--data", one, "data.eval_crop_ratio=0.5")
    key = result.stdout.split(": ")[1]
    assert _is_other(run.read_measurement(f"evaluation-{key}")["subject"], identity)


# --- what is refused, in one sentence ---


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "map: cannot be read (No such file or directory); check the path"),
        ("[0, 1, 0]", "0 stands there twice"),
        ('{"": [[]]}', "'' has [[]] there"),
        ("", "map: it is empty, so this is no map of classes; give a class on each line"),
        ("[1, true]", "map: True is no class"),
        ("[[1], [2.5]]", "map: its image 2 has [2.5]"),
        ('{"class-0": {"a": 1}}', "map: 'class-0' has {'a': 1} there"),
        ('{"class-0": 1', "map: it is neither JSON nor text"),
        ('{"class-0": 1, "class-0": 2}', "map: it is neither JSON nor text"),
        (b"\xff\xfe\x00\xd8", "map: it is neither JSON nor text"),
        ("class-1\nclass-1\n", "map: 'class-1' stands there twice"),
        ("class-1\tclass-1\nclass-2\n", "map: it has the line 'class-2'"),
        ("class-0\nclass-7\n", "map: 'class-7' is none of the network's 5 classes; name one of "),
        ("[0, 5]", "map: 5 is none of the network's 5 classes; name one of them (such as 'class-0"),
        ('{"class-0": 1}', "map: does not say what the class 'class-1' of"),
        ('{"class-0": null, "class-1": null, "class-2": []}', "no image of these data has a right"),
        ('{"a.jpg": [1]}', "map: names neither the classes of the data nor its image '000"),
        ('{"0000.jpg": [1], "x/0000.png": [1]}', "map: two images are called 'x/0000.png'"),
        ("[[0], [1], []]", "map: has the images 1 to 3, and the name of '0000' ends with 0, which"),
    ],
)
def test_a_wrong_map_is_one_sentence_with_a_cure(content, message, run, sets, tmp_path):
    data = sets / "three"
    if not data.exists():
        written(data, [0, 1, 2], NAMES[:3])
    path = tmp_path / "map"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    result = invoke(run.path, "--data", data, "--classes", path)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    [line] = [line for line in result.stderr.splitlines() if "--classes: " in line]
    assert message in line and "; " in line
    assert not list(run.measured.glob("*"))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("class-0", "ant", "bee"), "2 of its 3 classs are none of the network's, such as 'ant'"),
        (("0", "3", "7"), "1 of its 3 classs is none of the network's, such as '7'"),
        (("0", "00", "1"), "two of its classes are the same one of the network's"),
        (None, "has 3 classs and the network 5, and the names of"),
    ],
)
def test_classes_that_cannot_be_matched_without_a_map_are_refused(names, message, run, tmp_path):
    data = written(tmp_path / "data", [0, 1, 2], names)
    result = invoke(run.path, "--data", data)
    assert result.exit_code == 2 and message.replace("classs", "classes") in result.stderr
    assert "--classes: " in result.stderr and "name a file" in result.stderr


def test_a_network_whose_own_classes_are_numbers_is_never_asked_by_position(run, tmp_path):
    names = ("1", "2", "3", "4", "5")
    write_checkpoint(
        run,
        load_settings(run.config),
        parts={"history": {"classes": {"num": CLASSES, "names": names, "place": "train"}}},
    )
    data = written(tmp_path / "data", [0, 1], ("0", "5"))
    result = invoke(run.path, "--data", data)
    assert result.exit_code == 2 and "1 of its 2 classes is none of the network's" in result.stderr


@pytest.mark.parametrize("nothing", ["", "null"])
def test_a_class_may_have_no_right_answer_in_text_too(nothing, tmp_path):
    (tmp_path / "map").write_text(f"ant\tclass-1\nrest\t{nothing}\n")
    assert read_class_map(tmp_path / "map").by_name == {"ant": ("class-1",), "rest": ()}


def test_a_map_without_other_data_is_refused(run, sets):
    result = invoke(run.path, "--classes", sets / "val")
    assert result.exit_code == 2
    assert result.stderr == "--classes: it is a map for other data; give --data too.\n"


def test_data_that_are_not_there_are_refused_with_their_path(run, tmp_path):
    result = invoke(run.path, "--data", tmp_path / "nowhere")
    assert result.exit_code == 2 and "nowhere: there are no shards here" in result.stderr


def test_shards_with_more_classes_than_the_network_are_evaluated_where_a_map_says_what_they_are(
    run, tmp_path
):
    names = tuple("abcdefgh")
    data = written(tmp_path / "data", list(range(8)) * 2, names)
    meant = dict.fromkeys(names) | {"b": "class-2", "h": ["class-0", "class-1"]}
    (tmp_path / "map").write_text(json.dumps(meant))
    result = invoke(run.path, "--data", data, "--classes", tmp_path / "map")
    assert "(4 images of 3 classes, 12 without a right class)" in result.stdout


def test_classes_of_a_map_may_be_those_of_a_manifest(sets, tmp_path):
    folder = rename_classes(written(tmp_path / "set", [0, 1], ("x", "y")), "p", "q")
    for path in (folder, folder / "manifest.json"):
        assert read_class_map(path).classes == ("p", "q")
