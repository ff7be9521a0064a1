import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms import v2

from rwp_dist.data.image import Mixer, Normalise

BATCH, CLASSES = 6, 10
MIXUP, CUTMIX, BOTH = (1.0, 0.0), (0.0, 1.0), (0.8, 1.0)
# A normal value exceeds this once in 10,000 times.
SIGMAS = 3.9


def batch(height=8, width=12):
    """Images that hold their own row's number, and labels that are it."""
    labels = torch.arange(BATCH)
    images = labels.view(-1, 1, 1, 1).expand(BATCH, 3, height, width).to(torch.float32).clone()
    return images, labels


def ratios(alphas, count, **options):
    """The share that each of many draws keeps of row 1."""
    mixer = Mixer(*alphas, CLASSES, **options)
    images, labels = batch(32, 32)
    return np.array([mixer(images, labels, (0, step, 0))[1][1, 1].item() for step in range(count)])


def ks_distance(a, b):
    points = np.concatenate([a, b])
    share = [np.searchsorted(np.sort(x), points, side="right") / len(x) for x in (a, b)]
    return np.abs(share[0] - share[1]).max()


@pytest.mark.parametrize("alphas", [MIXUP, CUTMIX, BOTH])
def test_pixels_and_targets_hold_the_same_shares_of_the_row_before(alphas):
    images, labels = batch()
    mixer = Mixer(*alphas, CLASSES)
    seen = set()
    for step in range(50):
        mixed, targets, _ = mixer(images, labels, (0, step, 0))
        kept = targets[1, 1].item()
        seen.add(kept)
        expected = kept * F.one_hot(labels, CLASSES) + (1 - kept) * F.one_hot(
            labels.roll(1), CLASSES
        )
        assert torch.allclose(targets, expected, atol=1e-6)
        mean = kept * labels + (1 - kept) * labels.roll(1)
        assert torch.allclose(mixed.mean((1, 2, 3)), mean, atol=1e-5)
    assert len(seen) > 20


def test_cutmix_pastes_one_box_at_the_same_place():
    images = torch.rand(BATCH, 3, 9, 14)
    mixer = Mixer(*CUTMIX, CLASSES)
    for step in range(50):
        mixed, targets, _ = mixer(images, torch.arange(BATCH), (0, step, 0))
        pasted = (mixed != images).any(1)
        assert (pasted == pasted[0]).all()
        rows, columns = pasted[0].any(1), pasted[0].any(0)
        assert pasted[0].sum() == rows.sum() * columns.sum()
        assert torch.equal(mixed, torch.where(pasted[:, None], images.roll(1, 0), images))
        assert targets[0, 0] == pytest.approx(1 - pasted[0].float().mean().item(), abs=1e-6)


@pytest.mark.parametrize(
    ("alphas", "peer"),
    [
        ((1.0, 0.0), v2.MixUp(alpha=1.0, num_classes=CLASSES)),
        ((0.2, 0.0), v2.MixUp(alpha=0.2, num_classes=CLASSES)),
        ((0.0, 1.0), v2.CutMix(alpha=1.0, num_classes=CLASSES)),
        ((0.0, 0.5), v2.CutMix(alpha=0.5, num_classes=CLASSES)),
    ],
)
def test_ratios_have_torchvisions_distribution(alphas, peer):
    count = 1500
    ours = ratios(alphas, count)
    images, labels = batch(32, 32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = np.array([peer(images, labels)[1][1, 1].item() for _ in range(count)])
    # Two-sample Kolmogorov-Smirnov: equal distributions exceed this once in 10,000 times.
    assert ks_distance(ours.round(5), theirs.round(5)) < 2.225 * math.sqrt(2 / count)
    assert ours.std() > 0.15


def test_with_both_each_batch_takes_one_evenly():
    images, labels = batch()
    mixer, cuts = Mixer(1.0, 1.0, CLASSES), 0
    for step in range(600):
        mixed, *_ = mixer(images, labels, (0, step, 0))
        cuts += bool((mixed == mixed.round()).all())
    # Of CutMix batches all, of Mixup batches (nearly) none have whole numbers only.
    assert abs(cuts - 300) < SIGMAS * math.sqrt(150) + 6


def test_the_key_decides():
    images, labels = torch.rand(BATCH, 3, 8, 8), torch.arange(BATCH)
    mixer = Mixer(*BOTH, CLASSES)
    keys = [(seed, step, slot) for seed in (0, 1) for step in (0, 1) for slot in (0, 1)]
    first = [mixer(images, labels, key)[1] for key in keys]
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    for key, targets in reversed(list(zip(keys, first, strict=True))):
        assert torch.equal(mixer(images, labels, key)[1], targets)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.array_equal(np.random.get_state()[1], state[1])
    assert len({tuple(targets.flatten().tolist()) for targets in first}) == len(keys)


@pytest.mark.parametrize("alphas", [MIXUP, CUTMIX])
@pytest.mark.parametrize(
    "weights", [[1, 1, 1, 1, 0, 0], [0, 1, 0, 1, 1, 0], [0, 0, 1, 0, 0, 0], [1, 0, 0, 0, 0, 1]]
)
def test_padding_never_reaches_a_good_row(alphas, weights):
    good = torch.tensor(weights, dtype=torch.bool)
    images, labels = torch.rand(BATCH, 3, 8, 8), torch.arange(BATCH)
    images[~good] = math.nan
    mixer = Mixer(*alphas, CLASSES)
    for step in range(20):
        mixed, targets, _ = mixer(images, labels, (0, step, 0), torch.tensor(weights).float())
        assert mixed[good].isfinite().all()
        assert (targets[good][:, :BATCH][:, ~good] == 0).all()
        assert torch.allclose(targets.sum(1), torch.ones(BATCH))
        # Good rows are mixed as a batch of their own would be.
        alone = mixer(images[good], labels[good], (0, step, 0))
        assert torch.equal(mixed[good], alone[0])
        assert torch.equal(targets[good], alone[1])


def test_a_batch_of_nothing_but_padding_is_harmless():
    images, labels = batch()
    mixed, *_ = Mixer(*MIXUP, CLASSES)(images, labels, (0, 0, 0), torch.zeros(BATCH))
    assert torch.allclose(mixed, images)


@pytest.mark.parametrize("alphas", [(0.0, 0.0), MIXUP])
def test_label_smoothing_is_cross_entropys(alphas):
    images, labels = batch()
    logits = torch.randn(BATCH, CLASSES, generator=torch.Generator().manual_seed(0))
    _, plain, labels_of_plain = Mixer(*alphas, CLASSES)(images, labels, (0, 0, 0))
    _, smooth, labels_of_smooth = Mixer(*alphas, CLASSES, label_smoothing=0.1)(
        images, labels, (0, 0, 0)
    )
    expected = F.cross_entropy(logits, plain, label_smoothing=0.1)
    assert torch.allclose(F.cross_entropy(logits, smooth), expected)
    assert not torch.allclose(F.cross_entropy(logits, plain), expected)
    assert torch.equal(labels_of_plain, plain) and torch.equal(labels_of_smooth, plain)


def test_nothing_to_mix_leaves_images_as_they_are():
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    out, targets, _ = Mixer(0.0, 0.0, CLASSES)(images, torch.tensor([3, 4]), (0, 0, 0))
    assert out is images
    assert targets.tolist() == F.one_hot(torch.tensor([3, 4]), CLASSES).tolist()
    assert targets.dtype == torch.float32


@pytest.mark.parametrize("alphas", [MIXUP, CUTMIX])
def test_mixing_uint8_and_normalising_commute(alphas):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (BATCH, 3, 8, 8), dtype=torch.uint8, generator=generator)
    before, labels = images.clone(), torch.arange(BATCH)
    mixer, mean, std = Mixer(*alphas, CLASSES), [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
    mixed, *_ = mixer(images, labels, (0, 1, 0))
    normalise = Normalise(mean, std)
    other, *_ = mixer(normalise(images), labels, (0, 1, 0))
    assert mixed.dtype == torch.float32
    assert torch.allclose(normalise(mixed), other, atol=1e-5)
    assert torch.equal(images, before)


@pytest.mark.parametrize("alphas", [MIXUP, CUTMIX])
def test_memory_format_and_precision_are_kept(alphas):
    images = torch.rand(BATCH, 3, 8, 8, dtype=torch.bfloat16)
    images = images.contiguous(memory_format=torch.channels_last)
    mixed, *_ = Mixer(*alphas, CLASSES)(images, torch.arange(BATCH), (0, 1, 0))
    assert mixed.dtype == torch.bfloat16
    assert mixed.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("alphas", [MIXUP, CUTMIX])
def test_the_host_reads_nothing_from_the_device(alphas):
    """Meta tensors have no values: whatever had to wait for one would fail."""
    images = torch.empty(BATCH, 3, 8, 8, dtype=torch.uint8, device="meta")
    labels = torch.empty(BATCH, dtype=torch.int64, device="meta")
    weights = torch.empty(BATCH, device="meta")
    mixed, targets, _ = Mixer(*alphas, CLASSES, 0.1)(images, labels, (0, 0, 0), weights)
    assert mixed.shape == images.shape
    assert targets.shape == (BATCH, CLASSES)
