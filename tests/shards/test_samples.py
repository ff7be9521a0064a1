"""Listings that hold numbers and names, and give each sample as it was added."""

import os
import pickle
import tracemalloc

import pytest

from rwp_dist.shards.samples import Samples, Source
from rwp_dist.shards.sources import Listing, read_image
from rwp_dist.shards.write import _cut

LATIN = os.fsdecode(b"caf\xe9.jpg")
SOURCES = [
    Source("ant/a.JPEG", "jpeg", 0, "/data/ant/a.JPEG"),
    Source("ant/b.jpg", "jpg", 0, "/data/ant/b.jpg"),
    Source("bee/deep/er/c.png", "png", 1, "/data/bee/deep/er/c.png"),
    Source(f"ant/{LATIN}", "jpg", 2**31 - 1, f"/data/ant/{LATIN}"),
    Source("犬/é.webp", "webp", 3, "/elsewhere/犬/é.webp"),
    Source("/", "jpg", 4, "/"),
    Source("", "jpg", 5, "", 17),
    Source("x.jpg", "jpg", 6, "x.jpg"),
    Source("./x.jpg", "jpg", 7, "list/x.jpg"),
    Source("a\\b.jpg", "jpg", 8, "list/a/b.jpg"),
    Source("train-0.tar/0001_a", "jpg", 9, "/s/train-0.tar", 1536, 110_000),
    Source("train-0.tar/0002_b", "png", 10, "/s/train-0.tar", 2**40, 2**33),
    Source("train-1.tar/0002_b", "png", -1, "/s/train-1.tar", 0, 0),
    Source("a\ud800b", "jpg", 11, "a\ud800b"),
    Source("ant/z.JPEG", "jpeg", 0, "/data/ant/z.JPEG"),
]


def test_samples_are_those_that_were_added() -> None:
    samples = Samples(SOURCES)
    assert list(samples) == SOURCES and len(samples) == len(SOURCES)
    assert list(pickle.loads(pickle.dumps(samples))) == SOURCES
    assert [samples[row] for row in range(-len(SOURCES), 0)] == SOURCES
    assert samples[3:-2:2] == SOURCES[3:-2:2]
    with pytest.raises(IndexError):
        samples[len(SOURCES)]
    assert not Samples() and list(Samples()) == []


def test_samples_can_be_added_to_those_that_are_there() -> None:
    samples = Samples(SOURCES[:11])
    samples.extend(Samples(SOURCES[11:]))
    assert list(samples) == SOURCES


def test_other_labels_leave_the_rest_and_the_first_as_they_were() -> None:
    few = Samples(source._replace(label=row % 3) for row, source in enumerate(SOURCES))
    other = few.relabelled([7, 0, 5])
    assert [sample.label for sample in other] == [(7, 0, 5)[row % 3] for row in range(len(few))]
    assert [sample._replace(label=0) for sample in other] == [s._replace(label=0) for s in SOURCES]
    assert [sample.label for sample in few] == [row % 3 for row in range(len(few))]


def test_a_sample_of_imagenet_takes_at_most_60_bytes_with_its_place_in_the_order() -> None:
    def folders():
        for row in range(10_000):
            name = f"n{row // 1000:08d}/n{row // 1000:08d}_{row}.JPEG"
            yield Source(name, "jpeg", row // 1000, f"/data/imagenet/train/{name}")

    tracemalloc.start()
    try:
        listing = Listing(Samples(folders()), None, read_image)
        cuts = _cut(listing, 0, 1000, None)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(map(len, cuts)) == 10_000
    assert held < 60 * 10_000 and peak < 62 * 10_000
