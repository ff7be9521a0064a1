"""Peers that are not installed cost a line; this project and those that are open large data."""

import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from peers import table
from peers.folder import Folder
from peers.lit import Lit
from peers.ours import Ours


def test_a_peer_that_is_not_installed_is_named_in_a_line_and_left_out(monkeypatch):
    def version(name):
        if name == "litdata":
            raise metadata.PackageNotFoundError
        return "1.0"

    monkeypatch.setattr(metadata, "version", version)
    [line] = [line for line in table.versions() if line.startswith("litdata")]
    assert "left out" in line and "pip install" in line
    assert not any(isinstance(peer, Lit) for peer in table.readers())


def test_a_peer_opens_large_data_and_goes_on_where_it_can(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "OPENS", (Ours(anew=False), Folder()))  # each takes many processes
    lines = list(table.opening(tmp_path / "peers", num_shards=3, rounds=1))
    found = {line[:38].strip(): line[38:].split() for line in lines[1:]}
    assert found.keys() == {"this project", "ImageFolder"}, lines
    assert found["this project"][1::2] == ["1.0", "1.0"]
    assert found["ImageFolder"][-1] == "-"
