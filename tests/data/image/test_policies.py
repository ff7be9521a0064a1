"""Policies and colour jitter: torchvision's pixels, ranges and order, with keyed draws."""

import io
from collections import Counter
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from rwp_dist.config.tree import Augment
from rwp_dist.data.image import Decoder, Keyed, TrainTransform
from rwp_dist.data.image import augmix as augmix_module
from rwp_dist.data.image.augmix import AugMix
from rwp_dist.data.image.auto import OPERATIONS, augmix_space
from rwp_dist.data.image.jitter import ColorJitter
from rwp_dist.data.image.policies import POLICIES
from rwp_dist.data.image.three import SIGMAS, blurred, grey, solarised, three_augment

ALL = (0.4, 0.3, 0.2, 0.1)


def image(channels=3, size=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (channels, size, size), generator=generator, dtype=torch.uint8)


def encoded(size=24):
    buffer = io.BytesIO()
    Image.fromarray(image(3, size).permute(1, 2, 0).numpy()).save(buffer, "png")
    return buffer.getvalue()


def test_the_settings_name_every_policy():
    assert set(get_args(Augment.model_fields["auto"].annotation)) == {"none", *POLICIES}


class TestThreeAugment:
    @pytest.mark.parametrize("channels", [1, 3])
    def test_pixels_are_torchvisions(self, channels):
        pixels = image(channels)
        assert torch.equal(grey(pixels, Keyed(0)), v2.Grayscale(channels)(pixels))
        assert torch.equal(solarised(pixels, Keyed(0)), v2.RandomSolarize(128, p=1.0)(pixels))
        for key in range(5):
            sigma = Keyed(key).uniform(*SIGMAS)
            # A kernel that reaches further has the same pixels, to one value of 256.
            expected = F.gaussian_blur(pixels, [25, 25], [sigma, sigma])
            difference = blurred(pixels, Keyed(key)).int() - expected.int()
            assert difference.abs().max() <= 1

    def test_each_of_the_three_comes_equally_often(self):
        pixels = image()
        plain = {"grey": grey(pixels, Keyed(0)), "solarised": solarised(pixels, Keyed(0))}
        counts = Counter(
            next((name for name in plain if torch.equal(plain[name], found)), "blurred")
            for found in (three_augment(pixels, Keyed(0, 0, key)) for key in range(900))
        )
        assert len(counts) == 3
        assert sum((count - 300) ** 2 / 300 for count in counts.values()) < 18.4  # 2 dof, 1e-4

    @pytest.mark.parametrize("size", [1, 2, 5])
    def test_an_image_smaller_than_the_blur_is_blurred_too(self, size):
        for key in range(5):
            assert blurred(image(3, size), Keyed(key)).shape == (3, size, size)


class TestColorJitter:
    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("strengths", [ALL, (0.4, 0.4, 0.4, 0.0), (0.0, 2.0, 0.0, 0.5)])
    def test_pixels_are_torchvisions_for_the_same_draws(self, channels, strengths):
        theirs = v2.ColorJitter(*strengths)
        for key in range(6):
            draw = Keyed(5, key)
            params = {"fn_idx": draw.permutation(4)}
            for name in ("brightness", "contrast", "saturation", "hue"):
                bounds = getattr(theirs, name)
                params[f"{name}_factor"] = draw.uniform(*bounds) if bounds else None
            pixels = image(channels, seed=key)
            expected = theirs.transform(pixels, params)
            assert torch.equal(ColorJitter(strengths)(pixels, Keyed(5, key)), expected)

    def test_every_order_comes(self):
        orders = Counter(tuple(Keyed(0, key).permutation(4)) for key in range(2400))
        assert len(orders) == 24
        assert sum((count - 100) ** 2 / 100 for count in orders.values()) < 58  # 23 dof, 1e-4

    def test_of_nothing_is_nothing(self):
        assert torch.equal(ColorJitter((0, 0, 0, 0))(image(), Keyed(0)), image())


class Drawn(v2.AugMix):
    """torchvision's AugMix with the draws of ours."""

    def __init__(self, draw, severity):
        super().__init__(severity=severity)
        self.draw = draw

    def _sample_dirichlet(self, params):
        return torch.tensor([self.draw.dirichlet(params[0].tolist())])

    def _get_random_item(self, space):
        names = list(space)
        name = names[self.draw.integers(len(names))]
        return name, space[name]


class TestAugMix:
    pixels = {channels: image(channels) for channels in (1, 3)}  # noqa: RUF012

    @pytest.mark.parametrize("size", [32, 20])
    def test_operations_and_magnitudes_are_torchvisions(self, size):
        theirs, ours = v2.AugMix()._AUGMENTATION_SPACE, augmix_space(size)
        assert list(ours) == list(theirs)
        for name, (magnitudes, signed) in theirs.items():
            values = magnitudes(10, size, size)
            assert ours[name].signed == signed
            assert ours[name].values == ([] if values is None else values.tolist())

    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("severity", [1, 3, 10])
    def test_pixels_are_torchvisions_for_the_same_draws(self, channels, severity, monkeypatch):
        for key in range(6):
            draw = Keyed(9, key)
            theirs = Drawn(draw, severity)

            def randint(*args, draw=draw, low=0, high=None, size=()):
                most = args[0] if args else high
                return torch.tensor(low + draw.integers(most - low)).reshape(size)

            monkeypatch.setattr(torch, "randint", randint)
            monkeypatch.setattr(torch, "rand", lambda size, draw=draw: torch.tensor(draw.uniform()))
            pixels = self.pixels[channels]
            expected = theirs(pixels)
            found = AugMix(32, severity)(pixels, Keyed(9, key))
            # torchvision's shares are floats of 32 bits.
            assert (found.int() - expected.int()).abs().max() <= 1

    def test_chains_have_one_to_three_operations(self, monkeypatch):
        seen = []
        for name in OPERATIONS:
            monkeypatch.setitem(OPERATIONS, name, lambda x, m: seen.append(m) or x)
        lengths = Counter()
        for key in range(300):
            seen.clear()
            AugMix(32, 3)(image(3, 4), Keyed(0, key))
            lengths[len(seen)] += 1
        assert set(lengths) == set(range(augmix_module.WIDTH, augmix_module.WIDTH * 3 + 1))


@pytest.mark.parametrize("auto", ["three", "augmix"])
def test_a_policy_changes_the_image_by_its_key_alone(auto):
    data = encoded()
    plain = TrainTransform(24, "none", False)(data, (0, 0, 0))
    transform = TrainTransform(24, "none", False, auto=auto, jitter=ALL)
    images = [transform(data, (0, 0, sample)) for sample in range(20)]
    assert sum(not np.array_equal(plain, found) for found in images) >= 18
    again = TrainTransform(24, "none", False, auto=auto, jitter=ALL)
    for sample in reversed(range(20)):
        assert np.array_equal(again(data, (0, 0, sample)), images[sample])


def test_jitter_comes_after_the_policy_and_leaves_grey_images_grey():
    transform = TrainTransform(24, "none", False, auto="three", jitter=ALL)
    found = [transform(encoded(), (0, 0, sample)) for sample in range(30)]
    assert any((pixels == pixels[..., :1]).all() for pixels in found)
    grey_only = TrainTransform(
        24, "none", False, auto="augmix", jitter=ALL, decoder=Decoder(channels=1)
    )
    assert grey_only(encoded(), (0, 0, 0)).shape == (24, 24, 1)
