"""Labels mean the same in all data sets of a run, and what is doubtful is said."""

import pytest
from support.stream_sets import load, rename_classes, write_set

from rwp_dist.base.errors import DataError
from rwp_dist.config import load_settings, split_batch
from rwp_dist.data.classes import Classes, notes
from rwp_dist.data.dataset import load_dataset, load_manifest
from rwp_dist.data.format.manifest import Manifest

ABCD = Classes(4, tuple("abcd"), "shards/train")


def named(names, place="shards/val"):
    return Classes(len(names), tuple(names), place)


def test_another_class_for_a_label_is_refused_with_both_names_and_the_cure():
    with pytest.raises(DataError) as caught:
        ABCD.joined(named("acd"))
    assert str(caught.value) == (
        "labels do not mean the same: 1 is 'b' in shards/train and 'c' in shards/val; write "
        "shards/val again with `rwp-dist shards write SOURCE --out DIR --classes-of shards/train`."
    )
    # The one that lacks a class is written again, whichever comes first.
    with pytest.raises(DataError, match=r"write shards/val again .* --classes-of shards/train"):
        named("acd").joined(ABCD)


@pytest.mark.parametrize("other", [ABCD, named("ab"), Classes(3, None, "shards/val")])
def test_the_same_labels_with_fewer_classes_or_without_names_are_no_difference(other):
    assert ABCD.joined(other) == other.joined(ABCD) == ABCD


def test_a_state_in_a_checkpoint_gives_the_same_classes():
    for classes in (ABCD, Classes(3, None, "x")):
        assert Classes.from_state(classes.state()) == classes


def test_data_sets_of_a_mixture_are_compared(tmp_path):
    folders = [write_set(tmp_path / name, num=24) for name in "abc"]
    rename_classes(folders[1], *(f"class-{i}" for i in (0, 1, 3, 2, 4)))
    with pytest.raises(DataError, match=r"2 is 'class-2' in .*a and 'class-3' in .*b"):
        load(*folders)
    dataset = load(folders[0], folders[2])
    assert dataset.classes.names == tuple(f"class-{i}" for i in range(5))


def test_manifests_without_class_names_load(tmp_path):
    folders = [write_set(tmp_path / name, num=24) for name in "ab"]
    Manifest(5, None, Manifest.load(folders[0]).shards).save(folders[0])
    assert load(folders[0]).classes == Classes(5, None, str(folders[0]))
    assert load(*folders).classes.names is not None
    load_dataset([load_manifest(str(folders[0]))], 5, None)


def said(*overrides, train=ABCD, val=ABCD, ranks=1):
    settings = load_settings(None, ["model.num_classes=4", "data.lanes=1", *overrides])
    return [str(note) for note in notes(settings, split_batch(settings, ranks), train, val)]


def test_as_many_outputs_as_classes_and_no_mixing_leave_nothing_to_say():
    assert said() == said("augment.mixup=0.8", "batch.global=4", "batch.per_rank=2") == []


def test_other_numbers_of_outputs_are_said():
    assert said("model.num_classes=1000") == [
        "model.num_classes: 1,000 outputs for the 4 classes of shards/train (a, b, c, d); set it "
        "to 4 unless that is meant."
    ]
    many = Classes(5, tuple("abcde"), "x")
    assert said(train=many, val=many) == [
        "model.num_classes: 4 outputs for the 5 classes of x (a, b, c, d, ...); set it to 5 "
        "unless that is meant."
    ]
    unknown = Classes(4, None, "x")
    assert said("model.num_classes=10", train=unknown) == [
        "model.num_classes: 10 outputs for the 4 classes of x; set it to 4 unless that is meant."
    ]


def test_classes_that_validation_lacks_are_said():
    assert said(val=named("abc")) == [
        "data.val: shards/val has 3 classes and shards/train has 4, also d; check that these are "
        "its validation data."
    ]


@pytest.mark.parametrize(
    ("overrides", "ranks", "keys"),
    [
        (["augment.mixup=0.8", "batch.per_rank=1"], 1, "augment.mixup"),
        (["augment.cutmix=1", "batch.per_rank=1"], 1, "augment.cutmix"),
        (["augment.cutmix=1", "augment.mixup=1"], 4, "augment.mixup and augment.cutmix"),
    ],
)
def test_micro_batches_of_one_image_that_are_to_be_mixed_are_said(overrides, ranks, keys):
    [note] = said("batch.global=4", "method.name=sgd", *overrides, ranks=ranks)
    assert note == (
        f"{keys}: micro-batches of one image mix nothing, because images are mixed within one; set "
        f"batch.per_rank to 2 or more (and batch.global, so that a rank has two), or {keys} to 0."
    )
