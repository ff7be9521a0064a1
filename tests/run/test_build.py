"""What ranks have in common once the parts of a run are built."""

from unittest.mock import patch

import pytest
import torch.distributed as dist
from support.ranks import run_ranks
from support.small import small_parts, small_settings
from support.stream_sets import CLASSES, SIZE, rename_classes, write_set

from rwp_dist.base.errors import ConfigError
from rwp_dist.config import load_settings
from rwp_dist.perturb.normals import native
from rwp_dist.process.group import same_on_all_ranks
from rwp_dist.run.build import build_parts
from rwp_dist.shards.digits import write_digits


def backends(lacking, overrides):
    fast = patch.object(native, "is_fast", lambda: dist.get_rank() not in lacking)
    with fast, small_parts(small_settings(*overrides)) as parts:
        return parts.perturbed.backend


def test_one_rank_that_lacks_the_fast_generator_decides_for_all():
    rwp = ("method.name=m-rwp",)
    assert run_ranks(backends, 2, (), rwp) == ["native"] * 2
    assert run_ranks(backends, 2, (1,), rwp) == ["torch"] * 2
    assert run_ranks(backends, 2, (), ("method.name=sam",)) == [None] * 2


def without_shards_on_rank_1(folder):
    where = "nowhere" if dist.get_rank() == 1 else folder
    shards = [f"data.train={where}/train", f"data.val={where}/test"]
    with same_on_all_ranks():
        build_parts(load_settings(None, [*shards, "batch.global=64"]))


def test_shards_that_are_missing_on_one_node_end_all_ranks_at_once(tmp_path):
    write_digits(tmp_path)
    with pytest.raises(ConfigError, match="nowhere"):
        run_ranks(without_shards_on_rank_1, 2, tmp_path)


def opened(train, val, *overrides):
    shards = [f"data.train={train}", f"data.val={val}", "data.lanes=1", "data.workers=0"]
    images = [f"data.image_size={SIZE}", "data.channels=3", "batch.global=4", "run.device=cpu"]
    with same_on_all_ranks():
        parts = build_parts(load_settings(None, [*shards, *images, *overrides]))
    try:
        return parts.classes, [str(note) for note in parts.notes]
    finally:
        parts.close()


def test_validation_with_other_classes_is_refused_on_all_ranks(tmp_path):
    train, val = (write_set(tmp_path / name, num=12) for name in ("train", "val"))
    rename_classes(val, "class-0", "class-2", "class-1", "class-3", "class-4")
    words = r"1 is 'class-1' in \S+/train and 'class-2' in \S+/val; .* --classes-of \S+/train"
    with pytest.raises(ConfigError, match=words):
        run_ranks(opened, 2, train, val)


def test_what_is_doubtful_about_classes_and_mixing_is_known_before_the_first_step(tmp_path):
    folder = write_set(tmp_path / "train", num=12)
    ((classes, said),) = run_ranks(
        opened, 1, folder, folder, "augment.mixup=1", "batch.per_rank=1", "model.num_classes=9"
    )
    assert classes.names == tuple(f"class-{i}" for i in range(CLASSES))
    outputs, mixing = said
    assert outputs.startswith("model.num_classes: 9 outputs for the 5 classes of")
    assert mixing.startswith("augment.mixup: micro-batches of one image mix nothing")


def notes_of(*overrides):
    with small_parts(small_settings(*overrides)) as parts:
        return [str(note) for note in parts.notes], parts.timeline.lr(0)


def test_a_learning_rate_that_is_scaled_by_the_batch_is_said():
    ((said, rate),) = run_ranks(notes_of, 1, "optimizer.base_batch=6")
    assert rate == 0.2 and said == [
        "optimizer.lr: the peak is 0.2 (0.1 x 12 / 6, by optimizer.base_batch); set "
        "optimizer.base_batch to null if that is not meant."
    ]
    assert run_ranks(notes_of, 1) == [([], 0.1)]
