"""Slices go through the runs that they are said to go through."""

import numpy as np
import pytest
import torch
from support.landscapes import small_landscape, trained_net
from support.small import same_bits, small_net, small_settings

from rwp_dist.base.errors import ConfigError
from rwp_dist.data.image import Normalise
from rwp_dist.flatness import slices
from rwp_dist.flatness.landscape import Landscape
from rwp_dist.flatness.slices import Slice, around, between, relearnt


@pytest.fixture(autouse=True)
def few_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "POINTS", 5)
    monkeypatch.setattr(slices, "LINE_POINTS", 13)


def own_loss(landscape: Landscape, *, relearn: bool) -> float:
    """At the run's weights; with statistics of the sample, or those of its training."""
    if not relearn:
        total, _, count = landscape.sums(landscape.weights)
        return total / count
    with relearnt(landscape, landscape.weights):
        return own_loss(landscape, relearn=False)


def measured(cut: Slice) -> dict:
    return cut.as_dict({piece.name: piece.compute() for piece in cut.pieces()})


def test_around_a_run_its_own_loss_is_in_the_middle() -> None:
    landscape = small_landscape()
    expected = own_loss(landscape, relearn=False)
    line, plane = map(measured, around(landscape))
    assert line["runs"] == plane["runs"] == {"run": (0.0, 0.0)}
    assert line["loss"][0][line["x"].index(0.0)] == pytest.approx(expected)
    assert plane["loss"][plane["y"].index(0.0)][plane["x"].index(0.0)] == pytest.approx(expected)
    assert np.shape(plane["loss"]) == (len(plane["y"]), len(plane["x"]))


def test_the_middle_row_of_the_plane_is_the_line() -> None:
    line, plane = map(measured, around(small_landscape()))
    both = sorted(set(line["x"]) & set(plane["x"]))
    assert len(both) >= 3
    for x in both:
        in_plane = plane["loss"][plane["y"].index(0.0)][plane["x"].index(x)]
        assert in_plane == pytest.approx(line["loss"][0][line["x"].index(x)], rel=1e-5)


def test_a_line_between_two_runs_ends_at_both() -> None:
    runs = [small_landscape(seed=seed, name=f"run {seed}") for seed in (0, 1)]
    line = measured(between(runs))
    assert line["runs"] == {"run 0": (0.0, 0.0), "run 1": (1.0, 0.0)}
    for run, (x, _) in zip(runs, line["runs"].values(), strict=True):
        expected = own_loss(run, relearn=True)
        assert np.interp(x, line["x"], line["loss"][0]) == pytest.approx(expected, rel=1e-4)


def test_a_slice_to_another_run_is_measured_anew() -> None:
    runs = [small_landscape(seed=seed, name=f"run {seed}") for seed in (0, 1, 2)]
    first, second = ({p.key for p in between([runs[0], run]).pieces()} for run in runs[1:])
    assert not first & second


def test_a_plane_goes_through_three_runs() -> None:
    runs = [small_landscape(seed=seed, name=f"run {seed}") for seed in (0, 1, 2)]
    cut = between(runs)
    sums = cut.measure(list(cut.runs.values()))
    for run, (total, _, count) in zip(runs, sums, strict=True):
        assert total / count == pytest.approx(own_loss(run, relearn=True), rel=1e-4)
    # Distances in the plane are those of the weights.
    far = [distance(runs[0], runs[2]), distance(runs[0], runs[1])]
    assert np.hypot(*cut.runs["run 2"]) == pytest.approx(far[0] / far[1], rel=1e-4)


def distance(one: Landscape, other: Landscape) -> float:
    parts = [(one.weights[name] - other.weights[name]).norm() for name in one.weights]
    return float(torch.stack(parts).norm())


def test_statistics_are_those_of_training_again_afterwards() -> None:
    net = trained_net()
    landscape = small_landscape(net)
    before, momentum = buffers_of_net(net), net.bn1.momentum
    with relearnt(landscape, landscape.weights):
        assert not same_bits(before, buffers_of_net(net))
        assert not any(module.training for module in net.modules())
    assert same_bits(before, buffers_of_net(net))
    assert net.bn1.momentum == momentum
    assert not any(module.training for module in net.modules())


def test_relearnt_statistics_are_the_plain_mean_over_the_batches() -> None:
    net, data = trained_net(), small_settings().data
    landscape, normalise = small_landscape(net), Normalise(data.mean, data.std)
    outputs = [net.conv1(normalise(batch.images)) for batch in landscape.sample.batches]
    expected = torch.stack([each.mean((0, 2, 3)) for each in outputs]).mean(0)
    with relearnt(landscape, landscape.weights):
        assert torch.allclose(net.bn1.running_mean, expected, atol=1e-6)


def buffers_of_net(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.named_buffers()}


def test_runs_of_different_networks_or_of_another_number_are_refused() -> None:
    net = small_net()
    net.linear1, net.linear2 = torch.nn.Linear(20, 7), torch.nn.Linear(7, 5)
    first = small_landscape()
    for runs, what in (
        ([first, small_landscape(net)], "different networks"),
        ([first], "two or three runs, and here are 1"),
        ([first] * 4, "two or three runs, and here are 4"),
    ):
        with pytest.raises(ConfigError, match=what):
            between(runs)


def test_runs_that_span_no_line_or_plane_are_refused() -> None:
    first, second, middle = small_landscape(), small_landscape(), small_landscape()
    with pytest.raises(ConfigError, match="the first two runs have the same weights"):
        between([first, second, middle])
    second.weights = {name: 2 * value for name, value in first.weights.items()}
    middle.weights = {name: 1.3 * value for name, value in first.weights.items()}
    with pytest.raises(ConfigError, match="on one line"):
        between([first, second, middle])
