import hashlib
import io
import itertools
import math
import multiprocessing
import random
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from rwp_dist.data.image import (
    Decoder,
    EvalTransform,
    Keyed,
    TrainTransform,
    UndecodableImage,
)
from rwp_dist.data.image.auto import OPERATIONS, AutoAugment, randaugment_space, trivial_space
from rwp_dist.data.image.regions import cutout, erased, random_resized_crop

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
NUM_DRAWS = 4000
# Two-sample Kolmogorov-Smirnov: the distance that equal distributions exceed once in 10,000 times.
KS_LIMIT = math.sqrt(-math.log(1e-4 / 2) / 2) * math.sqrt(2 / NUM_DRAWS)
# A normal value exceeds this once in 10,000 times.
SIGMAS = 3.9


def encoded(height=40, width=56, channels=3, seed=0, kind="png"):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(buffer, kind)
    return buffer.getvalue(), pixels


def planes(image):
    return torch.from_numpy(image.copy()).permute(2, 0, 1)


def ks_distance(a, b):
    points = np.concatenate([a, b])
    share = [np.searchsorted(np.sort(x), points, side="right") / len(x) for x in (a, b)]
    return np.abs(share[0] - share[1]).max()


def ones(region):
    left, top, width, height = region
    return np.s_[top : top + height, left : left + width]


@pytest.mark.parametrize(("width", "height"), [(500, 375), (64, 64), (60, 300)])
def test_random_resized_crop_has_torchvisions_distribution(width, height):
    ours = [
        random_resized_crop(width, height, SCALE, RATIO, Keyed(1, 0, i)) for i in range(NUM_DRAWS)
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transform = v2.RandomResizedCrop(10, SCALE, RATIO)
        image = torch.empty(3, height, width)
        drawn = [transform.make_params([image]) for _ in range(NUM_DRAWS)]
    theirs = np.array([[p["left"], p["top"], p["width"], p["height"]] for p in drawn])
    ours = np.array(ours)
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, :2] + ours[:, 2:] <= (width, height)).all()
    for measure in (
        lambda r: r[:, 0],
        lambda r: r[:, 1],
        lambda r: r[:, 2] * r[:, 3],
        lambda r: r[:, 2] / r[:, 3],
        lambda r: r[:, 0] + r[:, 2],
    ):
        assert ks_distance(measure(ours), measure(theirs)) < KS_LIMIT


@pytest.mark.parametrize(("width", "height"), [(500, 10), (10, 500), (30, 31), (1, 1)])
def test_random_resized_crop_falls_back_to_torchvisions_centre(width, height):
    # The whole area never fits with such a ratio, so that both take the fallback.
    image = torch.empty(3, height, width)
    params = v2.RandomResizedCrop(10, (1.0, 1.0), (0.5, 0.55)).make_params([image])
    region = random_resized_crop(width, height, (1.0, 1.0), (0.5, 0.55), Keyed(0, 0, 1))
    assert region == (params["left"], params["top"], params["width"], params["height"])


def test_random_resized_crop_gives_torchvisions_pixels():
    data, pixels = encoded()
    transform = TrainTransform(24, crop="random_resized", flip=False)
    for sample in range(20):
        left, top, width, height = random_resized_crop(56, 40, SCALE, RATIO, Keyed(3, 1, sample))
        expected = F.resized_crop(planes(pixels), top, left, height, width, [24, 24])
        difference = transform(data, (3, 1, sample)).astype(int) - expected.permute(1, 2, 0).numpy()
        assert np.abs(difference).max() <= 1


EVERYTHING = {"auto": "randaugment", "erase": 0.5, "cutout": 6}


def fingerprint(options):
    data, _ = encoded()
    transform = TrainTransform(24, **{"crop": "random_resized", "flip": True} | options)
    images = [transform(data, (5, epoch, sample)) for epoch in (0, 1) for sample in range(8)]
    return hashlib.sha256(b"".join(image.tobytes() for image in images)).hexdigest()


def test_equal_in_another_process_and_after_other_global_draws():
    before = fingerprint(EVERYTHING)
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    assert fingerprint(EVERYTHING) == before
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(fingerprint, (EVERYTHING,)) == before


def test_global_generators_are_left_alone():
    def states():
        keys = np.random.get_state()[1]
        return random.getstate(), keys.tobytes(), torch.get_rng_state().numpy().tobytes()

    before = states()
    fingerprint(EVERYTHING)
    fingerprint({"auto": "trivial", "crop": "pad"})
    assert states() == before


@pytest.mark.parametrize("crop", ["random_resized", "pad"])
def test_one_key_one_image(crop):
    data, _ = encoded(24, 24)
    transform = TrainTransform(24, crop=crop, flip=True, pad=12)
    keys = list(itertools.product((0, 1), (0, 1), (0, 1)))
    images = {key: transform(data, key) for key in keys}
    for key, other in itertools.combinations(keys, 2):
        assert not np.array_equal(images[key], images[other])
    for key in reversed(keys):
        assert np.array_equal(transform(data, key), images[key])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("crop", ["random_resized", "pad", "none"])
@pytest.mark.parametrize("auto", ["none", "randaugment", "trivial"])
def test_result_is_a_writable_uint8_square(channels, crop, auto):
    data, _ = encoded(30, 44)
    for size in (16, 50):
        options = {"crop": crop, "flip": True, "auto": auto, "cutout": 3, "erase": 1.0}
        transform = TrainTransform(size, decoder=Decoder(channels=channels), **options)
        for sample in range(4):
            image = transform(data, (0, 0, sample))
            assert image.shape == (size, size, channels)
            assert image.dtype == np.uint8
            assert image.flags.c_contiguous
            assert image.flags.writeable


def test_flip_mirrors_half_of_the_samples():
    data, pixels = encoded(12, 12)
    transform = TrainTransform(12, crop="none", flip=True)
    flipped = 0
    for sample in range(1000):
        image = transform(data, (0, 0, sample))
        flipped += np.array_equal(image, pixels[:, ::-1])
        assert np.array_equal(image, pixels) or np.array_equal(image, pixels[:, ::-1])
    assert abs(flipped - 500) < SIGMAS * math.sqrt(250)
    still = TrainTransform(12, crop="none", flip=False)
    assert all(np.array_equal(still(data, (0, 0, sample)), pixels) for sample in range(20))


def test_pad_crop_takes_every_offset_evenly_with_a_black_border():
    data, pixels = encoded(8, 8)
    padded = np.pad(pixels, ((2, 2), (2, 2), (0, 0)))
    windows = {padded[t : t + 8, l : l + 8].tobytes(): (t, l) for t in range(5) for l in range(5)}  # noqa: E741
    transform = TrainTransform(8, crop="pad", pad=2, flip=False)
    counts = Counter(windows[transform(data, (0, 0, i)).tobytes()] for i in range(2500))
    assert len(counts) == 25
    assert sum((count - 100) ** 2 / 100 for count in counts.values()) < 62.0  # 24 dof, 1 in 30,000


@pytest.mark.parametrize("side", [1, 4, 7, 16])
def test_cutout_covers_as_its_definition_says(side):
    expected = np.zeros((12, 12))
    for y, x in itertools.product(range(12), repeat=2):
        square = np.s_[max(y - side // 2, 0) : y - side // 2 + side]
        across = np.s_[max(x - side // 2, 0) : x - side // 2 + side]
        expected[square, across] += 1 / 144
    counts = np.zeros((12, 12))
    for sample in range(3000):
        counts[ones(cutout(12, 12, side, Keyed(0, 0, sample)))] += 1
    error = SIGMAS * 1.2 * np.sqrt(3000 * expected * (1 - expected) + 1)
    assert (np.abs(counts - 3000 * expected) < error).all()


def test_cutout_writes_the_fill_in_one_rectangle_and_nothing_else():
    data, pixels = encoded(20, 20)
    transform = TrainTransform(20, crop="none", flip=False, cutout=6, fill=(1, 2, 3))
    areas = set()
    for sample in range(300):
        image = transform(data, (0, 0, sample))
        changed = (image != pixels).any(2)
        assert (image[changed] == (1, 2, 3)).all()
        rows, columns = changed.any(1), changed.any(0)
        areas.add(int(rows.sum() * columns.sum()))
    assert max(areas) == 36
    assert min(areas) >= 9


def test_erasing_has_torchvisions_distribution():
    ours = [erased(32, 32, Keyed(0, 0, sample)) for sample in range(NUM_DRAWS)]
    theirs = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transform, image = v2.RandomErasing(p=1.0), torch.zeros(3, 32, 32)
        for _ in range(NUM_DRAWS):
            params = transform.make_params([image])
            theirs.append((params["j"], params["i"], params["w"], params["h"]))
    ours, theirs = np.array(ours), np.array(theirs)
    for measure in (
        lambda r: r[:, 0],
        lambda r: r[:, 1],
        lambda r: r[:, 2] * r[:, 3],
        lambda r: r[:, 2] / r[:, 3],
    ):
        assert ks_distance(measure(ours), measure(theirs)) < KS_LIMIT


def test_erasing_happens_with_its_probability():
    data, pixels = encoded(16, 16)
    transform = TrainTransform(16, crop="none", flip=False, erase=0.25)
    erasures = 0
    for sample in range(1000):
        changed = (transform(data, (0, 0, sample)) != pixels).any(2)
        erasures += changed.any()
        assert changed.sum() < 0.4 * 256
    assert abs(erasures - 250) < SIGMAS * math.sqrt(1000 * 0.25 * 0.75)
    assert erased(1, 1, Keyed(0)) is None


class TestAutoAugment:
    @pytest.mark.parametrize("policy", ["randaugment", "trivial"])
    def test_operations_and_magnitudes_are_torchvisions(self, policy):
        theirs = v2.RandAugment() if policy == "randaugment" else v2.TrivialAugmentWide()
        ours = randaugment_space(32) if policy == "randaugment" else trivial_space()
        assert list(ours) == list(theirs._AUGMENTATION_SPACE)
        for name, (magnitudes, signed) in theirs._AUGMENTATION_SPACE.items():
            values = magnitudes(31, 32, 32)
            assert ours[name].signed == signed
            assert ours[name].values == ([] if values is None else values.tolist())

    @pytest.mark.parametrize("name", OPERATIONS)
    @pytest.mark.parametrize("channels", [1, 3])
    def test_pixels_are_torchvisions(self, name, channels):
        image = planes(encoded(32, 32, channels)[1])
        values, signed = trivial_space()[name]
        transform = v2.TrivialAugmentWide(interpolation=v2.InterpolationMode.BILINEAR)
        for value in values[::10] or [0.0]:
            for magnitude in (value, -value) if signed else (value,):
                expected = transform._apply_image_or_video_transform(
                    image, name, magnitude, v2.InterpolationMode.BILINEAR, {"others": None}
                )
                assert torch.equal(OPERATIONS[name](image, magnitude), expected)

    @pytest.mark.parametrize("policy", ["randaugment", "trivial"])
    def test_draws(self, policy, monkeypatch):
        seen = []
        for name in OPERATIONS:
            monkeypatch.setitem(
                OPERATIONS, name, lambda image, m, name=name: seen.append((name, m)) or image
            )
        auto = AutoAugment(policy, 32, 3, 9)
        for sample in range(1400):
            auto(torch.zeros(3, 1, 1), Keyed(0, 0, sample))
        assert len(seen) == 1400 * (3 if policy == "randaugment" else 1)
        counts = Counter(name for name, _ in seen)
        expected = len(seen) / 14
        assert (
            sum((counts[name] - expected) ** 2 / expected for name in OPERATIONS) < 39.4
        )  # 13 dof
        magnitudes = Counter(abs(m) for name, m in seen if name == "Rotate")
        if policy == "randaugment":
            assert set(magnitudes) == {randaugment_space(32)["Rotate"].values[9]}
        else:
            assert len(magnitudes) > 20
        signs = [m > 0 for name, m in seen if m and auto.space[name].signed]
        assert abs(sum(signs) - len(signs) / 2) < SIGMAS * math.sqrt(len(signs) / 4)

    def test_it_changes_the_image_in_the_transform(self):
        data, pixels = encoded(24, 24)
        for auto in ("randaugment", "trivial"):
            transform = TrainTransform(24, crop="none", flip=False, auto=auto)
            changed = [
                not np.array_equal(transform(data, (0, 0, sample)), pixels) for sample in range(50)
            ]
            assert sum(changed) > 30


@pytest.mark.parametrize(("height", "width"), [(40, 57), (57, 40), (16, 16), (41, 41), (9, 200)])
@pytest.mark.parametrize("crop_ratio", [0.875, 1.0, 0.7])
def test_evaluation_is_torchvisions_resize_and_centre_crop(height, width, crop_ratio):
    data, pixels = encoded(height, width)
    peer = v2.Compose([v2.Resize(round(16 / crop_ratio), antialias=True), v2.CenterCrop(16)])
    expected = peer(planes(pixels)).permute(1, 2, 0).numpy()
    image = EvalTransform(16, crop_ratio)(data)
    assert image.shape == (16, 16, 3)
    assert np.abs(image.astype(int) - expected).max() <= 1


def test_bad_bytes_are_the_samples_fault():
    train = TrainTransform(8, crop="random_resized", flip=True)
    for transform in (EvalTransform(8), lambda data: train(data, (0, 0, 0))):
        with pytest.raises(UndecodableImage):
            transform(b"nothing")


@pytest.mark.parametrize("size", [(1, 60000), (60000, 1)])
def test_a_file_of_a_kilobyte_does_not_claim_gigabytes_by_being_narrow(size):
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, "JPEG")
    narrow = buffer.getvalue()
    fitting = (
        EvalTransform(224),
        lambda data: TrainTransform(224, crop="none", flip=True)(data, (0, 0, 0)),
        lambda data: TrainTransform(224, crop="pad", flip=True)(data, (0, 0, 0)),
    )
    for transform in fitting:
        with pytest.raises(UndecodableImage, match=f"{size[0]}x{size[1]} is too narrow"):
            transform(narrow)
    cropping = TrainTransform(224, crop="random_resized", flip=True)
    assert cropping(narrow, (0, 0, 0)).shape == (224, 224, 3)
