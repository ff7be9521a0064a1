"""The GPU's transform on the CPU, with nvJPEG's place taken by torchvision's own decoder."""

import io
from dataclasses import replace
from functools import partial
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image
from support.stream_sets import cropped, load, train_streams, write_set

from rwp_dist.data import stream
from rwp_dist.data.image import EvalTransform, TrainTransform, decode_cuda
from rwp_dist.data.image.decode import jpeg_header
from rwp_dist.data.image.gpu import GpuTransform

RECIPES = {
    "random resized, flip": {"crop": "random_resized"},
    "padded, cutout": {"crop": "pad", "cutout": 9},
    "randaugment, erasing": {"crop": "random_resized", "auto": "randaugment", "erase": 1.0},
}


def jpeg(seed: int) -> bytes:
    random = np.random.default_rng(seed)
    small = random.integers(0, 255, (6, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize((80, 60), Image.Resampling.BICUBIC).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.io import ImageReadMode, decode_jpeg

    def nvjpeg(images, channels, device):
        raw = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in images]
        return [decode_jpeg(data, mode=ImageReadMode.RGB) for data in raw]

    monkeypatch.setattr(decode_cuda, "require_cuda", lambda: None)
    monkeypatch.setattr(decode_cuda, "nvjpeg", nvjpeg)


@pytest.mark.parametrize("name", RECIPES)
def test_training_images_are_those_of_the_cpu(without_a_gpu, name):
    transform = TrainTransform(24, 3, **RECIPES[name])
    encoded = [jpeg(seed) for seed in range(8)]
    keys = [(1, 2, sample) for sample in range(8)]
    images, failed = GpuTransform(transform, 3, torch.device("cpu"))(encoded, keys)
    wanted = np.stack([transform(d, k) for d, k in zip(encoded, keys, strict=True)])
    assert failed == [] and images.shape == (8, 3, 24, 24)
    difference = (images.permute(0, 2, 3, 1).int() - torch.from_numpy(wanted).int()).abs()
    assert difference.float().mean() < 1.0


def test_evaluation_images_are_those_of_the_cpu(without_a_gpu):
    transform = EvalTransform(24, 3)
    encoded = [jpeg(seed) for seed in range(3)]
    images, failed = GpuTransform(transform, 3, torch.device("cpu"))(encoded, [()] * 3)
    wanted = np.stack([transform(data) for data in encoded])
    assert failed == []
    difference = (images.permute(0, 2, 3, 1).int() - torch.from_numpy(wanted).int()).abs()
    assert difference.max() <= 2


def test_what_is_missing_or_no_image_is_named_and_black(without_a_gpu):
    transform = TrainTransform(24, 3)
    encoded = [jpeg(0), None, b"no image", jpeg(1)]
    images, failed = GpuTransform(transform, 3, torch.device("cpu"))(
        encoded, [(0, 0, i) for i in range(4)]
    )
    assert failed == [1, 2]
    assert not images[1].any() and not images[2].any() and images[3].any()


def test_neither_a_narrow_nor_a_huge_image_claims_the_gpus_memory(without_a_gpu):
    buffer = io.BytesIO()
    Image.new("RGB", (1, 60000)).save(buffer, "JPEG")
    huge = bytearray(jpeg(0))
    at = jpeg_header(bytes(huge)).height_at
    huge[at : at + 4] = b"\xff\xdc\xff\xdc"
    encoded = [jpeg(0), buffer.getvalue(), bytes(huge)]
    with patch.object(decode_cuda, "nvjpeg", wraps=decode_cuda.nvjpeg) as nvjpeg:
        images, failed = GpuTransform(EvalTransform(224, 3), 3, torch.device("cpu"))(
            encoded, [()] * 3
        )
    assert failed == [1, 2] and images[0].any() and not images[1:].any()
    assert nvjpeg.call_args.args[0] == encoded[:2]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_that_decodes_on_the_gpu_gives_the_same_batches(
    without_a_gpu, monkeypatch, tmp_path, workers
):
    """The same crops, labels, weights and bad samples; pixels within the resizer's rounding."""
    dataset = load(write_set(tmp_path, undecodable=(5,)))
    (on_cpu,) = train_streams(dataset, transform=cropped(), workers=workers)
    (on_gpu,) = train_streams(dataset, transform=cropped(), workers=workers)
    on_gpu._reading = replace(on_gpu._reading, decode_on_gpu=True)
    on_this_device = partial(GpuTransform, channels=3, device=torch.device("cpu"))
    monkeypatch.setattr(
        stream, "_gpu_transform", lambda t, r: on_this_device(t) if r.decode_on_gpu else None
    )
    wanted, got = (list(s.steps(0, s.steps_per_epoch)) for s in (on_cpu, on_gpu))
    assert sum(len(step.bad) for step in wanted) == 1
    for a, b in zip(wanted, got, strict=True):
        assert [r.sample for r in a.bad] == [r.sample for r in b.bad]
        assert a.valid == b.valid
        for one, other in zip(a.batches, b.batches, strict=True):
            assert torch.equal(one.labels, other.labels)
            assert torch.equal(one.weights, other.weights)
            assert (one.images.int() - other.images.int()).abs().float().mean() < 1.0
