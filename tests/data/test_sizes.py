"""Images of a size that changes along the run: exact at the boundary, whoever reads them."""

import hashlib

import numpy as np
import pytest
from support.stream_sets import BATCH, NUM, SIZE, augmented, joined, train_streams

from rwp_dist.config import load_settings
from rwp_dist.data.dataset import load_dataset, load_manifest
from rwp_dist.data.open import transform_of
from rwp_dist.data.remote import Patience
from rwp_dist.data.sizes import Sizes
from rwp_dist.shards import synthetic_listing, write_shards

SIZES = Sizes([0, 3, 5], [8, SIZE, 12])
STEPS = 7


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sizes") / "train"
    write_shards(synthetic_listing(NUM, 24, 20, 4, seed=0), folder)
    return load_dataset([load_manifest(str(folder), Patience())], 4, None)


def steps_of(dataset, first, last, world_size=1, workers=0, **options):
    """Global batches: the side of their images, and a digest of all that they hold."""
    streams = train_streams(dataset, world_size, workers, **options)
    found = []
    for steps in zip(*(stream.steps(first, last) for stream in streams), strict=True):
        images, labels, weights = joined(steps)
        arrays = (images, labels, weights)
        text = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
        found.append((images.shape[1], hashlib.sha256(text).hexdigest()))
    return found


def test_fractions_of_the_run_become_steps():
    settings = load_settings(
        None, ["data.sizes=[[0,128],[0.4,160],[0.8,176]]", "schedule.epochs=3"]
    )
    sizes = Sizes.of(settings, steps_per_epoch=7)  # 21 steps: 8.4 and 16.8
    assert [sizes.at(step) for step in (0, 7, 8, 16, 17, 20)] == [128, 128, 160, 160, 176, 176]
    assert settings.data.train_sizes == (128, 160, 176)
    plain = load_settings(None, ["data.image_size=32"])
    assert {Sizes.of(plain, 7).at(step) for step in range(50)} == {32}


def test_a_step_has_its_size_from_the_boundary_on(dataset):
    assert [side for side, _ in steps_of(dataset, 0, STEPS, sizes=SIZES)] == [
        *(8, 8, 8),
        *(SIZE, SIZE),
        *(12, 12),
    ]


@pytest.mark.parametrize(("world_size", "workers"), [(1, 3), (2, 0), (3, 2)])
def test_neither_ranks_nor_workers_nor_the_first_step_change_what_a_step_holds(
    dataset, world_size, workers
):
    whole = steps_of(dataset, 0, STEPS, sizes=SIZES, copies=3)
    for first in (0, 3, 4) if not workers else (0, 3):
        found = steps_of(dataset, first, STEPS, world_size, workers, sizes=SIZES, copies=3)
        assert found == whole[first:]


def test_a_size_that_stays_gives_the_pixels_of_a_run_without_sizes(dataset):
    assert steps_of(dataset, 3, 5, sizes=SIZES) == steps_of(dataset, 3, 5)
    one = Sizes([0], [SIZE])
    assert steps_of(dataset, 0, 3, sizes=one) == steps_of(dataset, 0, 3)


def test_copies_of_a_sample_differ_by_their_augmentation_alone(dataset):
    (stream,) = train_streams(dataset, copies=3, transform=augmented())
    (step,) = stream.steps(1, 2)
    images, labels, _ = joined([step])
    assert len({image.tobytes() for image in images}) == BATCH
    assert (labels.reshape(3, -1) == labels[: BATCH // 3]).all()
    keys = stream.request(1).keys
    assert len(set(keys)) == BATCH and len({key[:3] for key in keys}) == BATCH // 3


def test_transforms_are_made_for_the_largest_size():
    settings = load_settings(None, ["data.sizes=[[0,16],[0.5,12]]", "augment.auto=randaugment"])
    assert transform_of(settings).size == 16
