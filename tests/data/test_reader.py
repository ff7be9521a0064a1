import io
import tarfile

import numpy as np
import pytest
import torch
import webdataset as wds
from PIL import Image

from rwp_dist.data.plan import Plan
from rwp_dist.data.reader import (
    Reader,
    Samples,
    evaluation_batches,
    expand_shards,
    load_shards,
    normalise,
)
from rwp_dist.errors import DataError


def encoded(pixels, kind="png"):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(
        buffer, format=kind, **({"lossless": True} if kind == "webp" else {})
    )
    return buffer.getvalue()


def grey(value=0, height=4, width=4):
    return np.full((height, width), value, dtype=np.uint8)


def sample(key, label=b"1", **fields):
    return {"__key__": key, "png": encoded(grey()), "cls": label, **fields}


def without(field, fields):
    return {key: value for key, value in fields.items() if key != field}


def write(path, *samples):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file, wds.TarWriter(file, encoder=False) as tar:
        for fields in samples:
            tar.write(fields)
    return str(path)


def load(url, image_size=4, channels=1, num_classes=10):
    return load_shards(str(url), image_size=image_size, channels=channels, num_classes=num_classes)


def refused(url, *words, **arguments):
    with pytest.raises(DataError) as caught:
        load(url, **arguments)
    message = str(caught.value)
    assert message.count("\n") == 0 and message.endswith(".")
    for word in words:
        assert str(word) in message
    return message


@pytest.fixture
def numbered():
    """100 samples whose label and pixels say their row."""
    rows = torch.arange(100)
    return Samples(rows.to(torch.uint8).view(100, 1, 1, 1).expand(100, 3, 2, 2), rows)


def test_a_folder_a_file_and_a_brace_pattern_name_shards(tmp_path):
    for i in (2, 0, 1):
        write(tmp_path / f"x-{i:06d}.tar", sample("a"))
    (tmp_path / "notes.txt").write_text("no shard")
    names = [str(tmp_path / f"x-{i:06d}.tar") for i in range(3)]
    assert expand_shards(str(tmp_path)) == names
    assert expand_shards(names[1]) == [names[1]]
    assert expand_shards(str(tmp_path / "x-{000000..000002}.tar")) == names


def test_all_samples_are_loaded_in_the_order_of_the_shards(tmp_path):
    for shard in range(3):
        fields = [
            sample(f"{i}", b"%d" % (2 * shard + i), png=encoded(grey(10 * shard + i)))
            for i in range(2)
        ]
        write(tmp_path / f"x-{shard}.tar", *fields)
    samples = load(tmp_path)
    assert samples.images.shape == (6, 1, 4, 4) and samples.images.dtype == torch.uint8
    assert samples.labels.tolist() == [0, 1, 2, 3, 4, 5] and samples.labels.dtype == torch.int64
    assert samples.images[:, 0, 0, 0].tolist() == [0, 1, 10, 11, 20, 21]


def test_the_last_sample_of_a_shard_and_the_first_of_the_next_are_two(tmp_path):
    for i in range(2):
        write(tmp_path / f"x-{i}.tar", sample("same-key", b"%d" % i))
    assert load(tmp_path).labels.tolist() == [0, 1]


@pytest.mark.parametrize("kind", ["png", "jpg", "jpeg", "JPEG", "webp"])
def test_every_named_image_type_is_decoded(tmp_path, kind):
    pixels = np.zeros((16, 16, 3), dtype=np.uint8) + np.array([200, 100, 50], dtype=np.uint8)
    data = encoded(pixels, "jpeg" if kind.lower() == "jpg" else kind.lower())
    fields = {**without("png", sample("a")), kind: data}
    images = load(write(tmp_path / "x.tar", fields), image_size=16, channels=3).images
    assert images.shape == (1, 3, 16, 16)
    assert np.allclose(images[0, :, 8, 8], [200, 100, 50], atol=3)


def test_images_become_grey_or_rgb_as_asked(tmp_path):
    colour = np.zeros((4, 4, 3), dtype=np.uint8) + np.array([255, 0, 0], dtype=np.uint8)
    shard = write(tmp_path / "x.tar", sample("a", png=encoded(colour)), sample("b"))
    assert load(shard, channels=3).images[0, :, 0, 0].tolist() == [255, 0, 0]
    assert load(shard, channels=1).images[0, 0, 0, 0].item() == 76  # ITU-R 601: 0.299 of red


def test_an_image_of_the_right_size_is_not_touched(tmp_path):
    pixels = np.arange(16, dtype=np.uint8).reshape(4, 4) * 16
    shard = write(tmp_path / "x.tar", sample("a", png=encoded(pixels)))
    assert np.array_equal(load(shard).images[0, 0], pixels)


@pytest.mark.parametrize("wide", [True, False])
def test_another_size_is_scaled_and_cut_to_the_square_in_the_middle(tmp_path, wide):
    pixels = np.random.default_rng(0).integers(256, size=(8, 24), dtype=np.uint8)
    pixels = pixels if wide else pixels.T.copy()
    shard = write(tmp_path / "x.tar", sample("a", png=encoded(pixels)))
    size, box = ((12, 4), (4, 0, 8, 4)) if wide else ((4, 12), (0, 4, 4, 8))
    scaled = Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)
    expected = np.array(scaled.crop(box)).astype(int)
    assert np.allclose(load(shard).images[0, 0].numpy().astype(int), expected, atol=1)


def test_a_path_with_a_colon_is_a_path(tmp_path):
    shard = write(tmp_path / "pipe:x" / "a.tar", sample("a"))
    assert len(load(shard).labels) == 1


def test_missing_shards_are_named_with_the_cure(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # away from digits that may have been written here
    message = refused(tmp_path / "nothing", tmp_path / "nothing", "no shards here", "data.train")
    assert "shards digits" not in message
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no shards here")
    for url in ("data/digits/train", "data/digits/train/digits-train-{000000..000003}.tar"):
        refused(url, f"{url}: ", "`rwp-dist shards digits --out data/digits`")


def test_the_missing_one_of_a_pattern_is_named(tmp_path):
    write(tmp_path / "x-0.tar", sample("a"))
    write(tmp_path / "x-2.tar", sample("a"))
    refused(tmp_path / "x-{0..2}.tar", "1 of 3 shards", tmp_path / "x-1.tar")
    refused(tmp_path / "x-{0..2.tar", "braces")


def test_an_empty_shard_is_an_error_even_beside_a_good_one(tmp_path):
    write(tmp_path / "a.tar", sample("a"))
    refused(tmp_path, write(tmp_path / "b.tar"), "0 samples")


@pytest.mark.parametrize("content", [b"", b"hello", b"hello" * 1000])
def test_what_is_no_tar_file_is_said_to_be_none(tmp_path, content):
    path = tmp_path / "x.tar"
    path.write_bytes(content)
    refused(path, path, "no complete, uncompressed tar file")


def test_a_tar_cut_anywhere_is_an_error(tmp_path):
    whole = tmp_path / "whole.tar"
    write(whole, *(sample(f"{i}") for i in range(3)))
    data = whole.read_bytes()
    with tarfile.open(whole) as tar:
        last = tar.getmembers()[-1]
    path = tmp_path / "cut.tar"
    end = -(-(last.offset_data + last.size) // 512) * 512
    for size in range(256, end + 1024, 256):  # also at the boundaries of blocks and of samples
        path.write_bytes(data[:size])
        refused(path, path, "no complete")
    path.write_bytes(data[: end + 1024])
    assert len(load(path).labels) == 3


def test_a_damaged_header_does_not_lose_samples_silently(tmp_path):
    path = tmp_path / "x.tar"
    write(path, *(sample(f"{i}") for i in range(4)))
    with tarfile.open(path) as tar:
        header = tar.getmembers()[4].offset
    data = bytearray(path.read_bytes())
    data[header] ^= 1
    path.write_bytes(data)
    refused(path, path, "damaged")


def test_a_shard_that_may_not_be_read_says_why(tmp_path):
    (tmp_path / "folder.tar").mkdir()
    refused(tmp_path, tmp_path / "folder.tar", "Is a directory")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (sample("bad", png=b"no image"), ["no readable image", "unknown format"]),
        (sample("bad", png=encoded(grey(9, 40, 40))[:60]), ["no readable image"]),
        (without("png", sample("bad")), ["no image", ".webp"]),
        (without("cls", sample("bad")), ["no label", ".cls"]),
        (sample("bad", b"cat"), ["'cat'", "whole number"]),
        (sample("bad", b"1.5"), ["'1.5'", "whole number"]),
        (sample("bad", b""), ["''", "whole number"]),
        (sample("bad", b"\xff"), ["whole number"]),
        (sample("bad", b"10"), ["label 10", "0..9", "raise model.num_classes to 11"]),
        (sample("bad", b"-1"), ["label -1", "0..9"]),
    ],
)
def test_a_bad_sample_is_named_with_shard_key_and_cause(tmp_path, fields, words):
    shard = write(tmp_path / "x.tar", sample("good"), fields, sample("later"))
    message = refused(shard, shard, "sample bad", *words)
    assert "0x" not in message  # no addresses of objects


def test_two_files_of_one_name_are_an_error_that_names_the_cause(tmp_path):
    shard = write(tmp_path / "x.tar", sample("twice"), sample("twice"))
    message = refused(shard, shard, "twice.cls", "duplicate")
    assert "None" not in message  # of what webdataset raises, only the cause


def test_every_sample_of_an_epoch_is_read_once_over_ranks_and_micro_batches(numbered):
    plan = Plan(100, 24, slots=6, seed=0)
    seen = []
    for rank in range(2):
        reader = Reader(numbered, plan, rank, micro_batches=3)
        assert (reader.steps_per_epoch, reader.num_samples) == (5, 100)
        for step in reader.steps(0):
            assert len(step.batches) == 3
            for batch in step.batches:
                assert batch.images.shape == (4, 3, 2, 2) and batch.images.dtype == torch.uint8
                assert batch.labels.dtype == torch.int64 and batch.weights.dtype == torch.float32
                assert torch.equal(batch.images[:, 0, 0, 0].long(), batch.labels)
                seen += batch.labels[batch.weights == 1].tolist()
    assert sorted(seen) == list(range(100))


def test_a_step_tells_the_valid_rows_of_every_slot_of_all_ranks(numbered):
    plan = Plan(100, 24, slots=6, seed=0)
    readers = [list(Reader(numbered, plan, rank, micro_batches=3).steps(0)) for rank in range(2)]
    for steps in zip(*readers, strict=True):
        counts = [int(batch.weights.sum()) for step in steps for batch in step.batches]
        assert all(step.valid.tolist() == counts for step in steps)
    assert readers[0][-1].valid.tolist() == [1, 1, 1, 1, 0, 0]


def test_slots_go_to_ranks_in_order(numbered):
    plan = Plan(100, 24, slots=6, seed=0)
    rows, _ = plan.step(1, 2)
    for rank in range(3):
        step = next(Reader(numbered, plan, rank, micro_batches=2).steps(1, start=2))
        for micro_batch, batch in enumerate(step.batches):
            assert batch.labels.tolist() == rows[rank * 2 + micro_batch].tolist()


def test_starting_late_gives_the_rest_of_the_same_epoch(numbered):
    reader = Reader(numbered, Plan(100, 24, slots=2, seed=0), rank=1, micro_batches=1)
    whole = [step.batches[0].labels.tolist() for step in reader.steps(4)]
    assert [step.batches[0].labels.tolist() for step in reader.steps(4, start=3)] == whole[3:]
    assert list(reader.steps(4, start=5)) == []


def test_a_rank_beyond_the_plan_is_refused(numbered):
    with pytest.raises(ValueError, match="plan has 4"):
        Reader(numbered, Plan(100, 24, slots=4, seed=0), rank=2, micro_batches=2)


@pytest.mark.parametrize("world_size", [1, 3])
def test_evaluation_batches_hold_every_sample_once(numbered, world_size):
    ranks = [list(evaluation_batches(numbered, 16, r, world_size)) for r in range(world_size)]
    assert len({len(batches) for batches in ranks}) == 1
    every = [batch for batches in ranks for batch in batches]
    assert all(batch.images.shape == (16, 3, 2, 2) for batch in every)
    seen = torch.cat([batch.labels[batch.weights == 1] for batch in every])
    assert sorted(seen.tolist()) == list(range(100))


@pytest.mark.parametrize(
    ("mean", "std"), [((0.5,), (0.25,)), ((0.4, 0.5, 0.6), (0.2,)), ((0.1, 0.2, 0.3), (1, 2, 3))]
)
def test_normalise_scales_to_one_then_takes_mean_and_std_of_each_channel(mean, std):
    images = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8)
    wide = [torch.tensor(v, dtype=torch.float64).view(1, -1, 1, 1) for v in (mean, std)]
    expected = (images.double() / 255 - wide[0]) / wide[1]
    result = normalise(images, mean, std)
    assert result.dtype == torch.float32 and result.shape == images.shape
    assert torch.allclose(result.double(), expected, atol=2e-6)


def test_normalised_images_can_be_trained_on_after_an_evaluation():
    images = torch.ones(1, 1, 2, 2, dtype=torch.uint8)
    with torch.inference_mode():
        normalise(images, (0.123,), (0.5,))
    weight = torch.ones(1, 1, 2, 2, requires_grad=True)
    torch.nn.functional.conv2d(normalise(images, (0.123,), (0.5,)), weight).sum().backward()
    assert weight.grad is not None


def test_a_batch_goes_to_a_device_as_a_whole(numbered):
    batch = next(evaluation_batches(numbered, 4, 0, 1)).to("meta")
    assert {t.device.type for t in (batch.images, batch.labels, batch.weights)} == {"meta"}
