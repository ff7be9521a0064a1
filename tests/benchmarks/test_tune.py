"""The search for settings: what it combines, and when it says that a grid is too small."""

import sys
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import tune

GRIDS = Path(tune.__file__).parent / "grids"


def test_every_grid_is_of_a_configuration_and_gives_each_variant_as_many_settings():
    for path in GRIDS.glob("*.yaml"):
        config = yaml.safe_load((GRIDS.parents[1] / "configs" / path.name).read_text())
        grids = yaml.safe_load(path.read_text())
        assert set(grids) <= set(config["variants"])
        assert len({len(tune.choices(grid)) for grid in grids.values()}) == 1, path


def test_the_best_at_an_edge_is_told_by_its_key():
    tried = tune.choices([{"lr": [1, 2, 3], "scale": ["rms"], "sigma": [0.1, 0.2, 0.3]}])
    assert len(tried) == 9
    assert list(tune.edges({"lr": 2, "scale": "rms", "sigma": 0.2}, tried)) == []
    assert list(tune.edges({"lr": 3, "scale": "rms", "sigma": 0.2}, tried)) == ["lr"]
    assert list(tune.edges({"lr": 1, "scale": "rms", "sigma": 0.3}, tried)) == ["lr", "sigma"]


def test_edges_are_those_of_the_values_tried_beside_the_best():
    tried = tune.choices([{"lr": [1, 2], "sigma": [0.1, 0.2]}, {"lr": [2], "sigma": [0.3]}])
    assert list(tune.edges({"lr": 2, "sigma": 0.2}, tried)) == ["lr"]


def test_zero_is_no_edge():
    tried = tune.choices([{"decay": [0.0, 0.1, 0.2]}])
    assert list(tune.edges({"decay": 0.0}, tried)) == []
    assert list(tune.edges({"decay": 0.2}, tried)) == ["decay"]


def test_the_report_begins_with_the_best(capsys):
    tune.report("sam", {'{"rho": 0.1}': [80.0, 81.0], '{"rho": 0.2}': [90.0, 92.0]})
    first, _, edge = capsys.readouterr().out.splitlines()
    assert first == 'sam             91.00 ± 1.41  {"rho": 0.2}'
    assert "edge of rho" in edge
