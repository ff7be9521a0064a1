"""Random and adversarial perturbations have the radius that they are said to have."""

import math
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from support.landscapes import NUM, small_landscape, small_sample, trained_net
from support.small import SmallNet, same_bits, small_samples, small_settings

from rwp_dist.data.image import Normalise
from rwp_dist.flatness import directions
from rwp_dist.flatness.curves import (
    ADVERSARIAL_RADII,
    RANDOM_RADII,
    adversarial_curve,
    random_curve,
    random_pieces,
)
from rwp_dist.flatness.directions import direction
from rwp_dist.flatness.landscape import Landscape
from rwp_dist.flatness.measured import Curve, Measured
from rwp_dist.perturb.reference import Tensors, noise_std


def relative_moves(landscape: Landscape, weights: Tensors) -> torch.Tensor:
    """By how much of its own norm each filter has moved."""
    moves = [
        (noise_std(weights[name] - weight, "filter") / noise_std(weight, "filter")).flatten()
        for name, weight in landscape.weights.items()
    ]
    return torch.cat(moves)


def weights_of(landscape: Landscape, curve: object, number: int = 0) -> list[Tensors]:
    """At which weights a curve asks for the loss."""
    with patch.object(landscape, "sums", lambda weights, batches=None: weights):
        return curve(landscape, number)  # type: ignore[operator]


def test_sums_are_of_every_image_once_and_by_learnt_statistics() -> None:
    net, settings, samples = trained_net(steps=9), small_settings(), small_samples(NUM)
    normalise = Normalise(settings.data.mean, settings.data.std)
    landscape = Landscape("run", net, settings, small_sample())
    assert not net.training
    logits = net(normalise(samples.images))
    loss = torch.nn.functional.cross_entropy(logits, samples.labels, reduction="sum")
    hits = int((logits.argmax(1) == samples.labels).sum())
    assert 0 < hits < NUM
    assert landscape.sums(landscape.weights) == [pytest.approx(loss.item()), hits, NUM]


def test_another_network_sample_or_normalisation_is_measured_anew() -> None:
    def key(net: SmallNet, num: int = NUM, *settings: str) -> str:
        landscape = Landscape("run", net, small_settings(*settings), small_sample(num))
        return random_pieces(landscape, 1)[0].key

    net, other = trained_net(), trained_net()
    assert key(net) == key(other)
    with torch.no_grad():
        other.bn1.running_mean += 1
    keys = {key(net), key(other), key(net, NUM - 1), key(net, NUM, "data.mean=[0.3]")}
    assert len(keys) == 4


def test_a_random_direction_moves_every_filter_by_the_radius() -> None:
    landscape = small_landscape()
    for radius, weights in zip(RANDOM_RADII, weights_of(landscape, random_curve), strict=True):
        moves = relative_moves(landscape, weights)
        assert torch.allclose(moves, torch.full_like(moves, radius), rtol=1e-3, atol=1e-6)


def test_an_adversarial_move_has_the_radius_as_root_mean_square_over_the_filters() -> None:
    landscape = small_landscape()
    curve = weights_of(landscape, adversarial_curve)
    for radius, weights in zip(ADVERSARIAL_RADII, curve, strict=True):
        moves = relative_moves(landscape, weights)
        assert float(moves.square().mean().sqrt()) == pytest.approx(radius, rel=0.01, abs=1e-7)


def test_an_adversarial_move_raises_the_loss_more_than_random_ones() -> None:
    landscape = small_landscape()
    with patch("rwp_dist.flatness.curves.ADVERSARIAL_RADII", RANDOM_RADII[:4]):
        worst = [adversarial_curve(landscape, n) for n in range(len(landscape.sample.batches))]
    random = Curve.of(RANDOM_RADII, np.array([random_curve(landscape, n) for n in range(20)]))
    worse = Curve.of(RANDOM_RADII[:4], np.array(worst).sum(0, keepdims=True))
    assert worse.loss[0, 0] == pytest.approx(random.loss[0, 0])  # both of the whole sample
    for radius in RANDOM_RADII[1:4]:
        rises = random.rise[:, RANDOM_RADII.index(radius)]
        assert worse.mean_rise(radius) > 2 * rises.max()


def test_more_steps_find_a_higher_loss() -> None:
    landscape = small_landscape()
    curves = []
    for steps in (1, 5):
        with patch("rwp_dist.flatness.curves.ASCENT_STEPS", steps):
            curves.append(adversarial_curve(landscape, 0))
    assert curves[1][-1][0] > curves[0][-1][0]


def test_runs_of_one_network_get_the_same_directions_up_to_the_filters_norms() -> None:
    first, second = small_landscape(seed=0), small_landscape(seed=1)
    ones, others = direction(first, 3), direction(second, 3)
    for name, value in ones.items():
        norms = noise_std(first.weights[name], "filter") / noise_std(second.weights[name], "filter")
        assert torch.allclose(value, others[name] * norms, rtol=1e-4, atol=1e-6)
    assert not same_bits(ones, direction(first, 4))


def test_parameters_of_one_shape_move_in_directions_of_their_own() -> None:
    along = direction(small_landscape(), 0)
    scale, shift = along["bn1.weight"], along["bn1.bias"]
    assert abs(torch.cosine_similarity(scale, shift, dim=0)) < 0.99


def test_directions_do_not_depend_on_what_draws_them(monkeypatch: pytest.MonkeyPatch) -> None:
    here = direction(small_landscape(), 0)
    monkeypatch.setattr(directions, "choose_backend", lambda wanted, device: "torch")
    elsewhere = direction(small_landscape(), 0)
    assert all(torch.allclose(value, elsewhere[name], rtol=1e-4) for name, value in here.items())


def test_a_rescaled_network_has_the_same_curves() -> None:
    net = trained_net()
    landscape = small_landscape(net)
    with torch.no_grad():  # BatchNorm undoes it
        net.conv2.weight *= 3
        net.bn2.running_mean *= 3
        net.bn2.running_var.sub_(0).mul_(9).add_(-net.bn2.eps * 8)
    rescaled = small_landscape(net)
    assert rescaled.identity != landscape.identity
    for curve in (random_curve, adversarial_curve):
        before, after = np.array(curve(small_landscape(), 0)), np.array(curve(rescaled, 0))
        assert np.allclose(before, after, rtol=1e-3)


def test_where_ten_points_are_lost_is_interpolated() -> None:
    curve = Curve((0.0, 0.1, 0.3), np.zeros((1, 3)), np.array([[95.0, 90.0, 80.0]]))
    assert curve.radius_of_loss(10) == pytest.approx(0.2)
    assert curve.radius_of_loss(20) is None


def test_rise_and_radius_are_those_of_the_mean_over_the_directions() -> None:
    top1 = np.array([[90.0, 60.0], [90.0, 90.0]])
    curve = Curve((0.0, 0.1), np.array([[1.0, 2.0], [3.0, 6.0]]), top1)
    assert curve.mean_rise(0.1) == 2.0
    assert curve.radius_of_loss(10) == pytest.approx(0.1 * 10 / 15)


def test_a_batch_counts_by_its_images_and_an_eigenvalue_only_if_it_has_converged() -> None:
    values: dict[str, Any] = {
        "random-0": [[4.0, 4, 4]] * len(RANDOM_RADII),
        "adversarial-0": [[3.0, 3, 3], *[[6.0, 3, 3]] * (len(ADVERSARIAL_RADII) - 1)],
        "adversarial-1": [[1.0, 1, 1], *[[5.0, 1, 1]] * (len(ADVERSARIAL_RADII) - 1)],
    }
    for converged in (False, True):
        values["top_eigenvalue"] = {"value": 7.0, "converged": converged}
        numbers = Measured.of(values).numbers()
        assert numbers["flatness.adversarial_loss_increase"] == (11 - 4) / 4
        assert ("flatness.top_eigenvalue" in numbers) == converged


def test_a_loss_that_is_not_finite_is_kept_as_nan() -> None:
    sums = np.array([[[8.0, 4, 8], [None, 2, 8]]], dtype=float)
    curve = Curve.of((0.0, 0.1), sums)
    assert curve.loss[0, 0] == 1.0
    assert math.isnan(curve.loss[0, 1])
    assert curve.top1.tolist() == [[50.0, 25.0]]
