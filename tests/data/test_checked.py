"""A data set is checked once on a node, and again after every change that can be seen."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.faulty_server import FaultyServer
from support.ranks import run_ranks
from support.small_shards import cache_in
from support.stream_sets import CLASSES, NUM, rename_classes, served, write_set

from rwp_dist.base.errors import ConfigError, DataError
from rwp_dist.data import checked
from rwp_dist.data.dataset import Dataset, load_dataset, load_manifest
from rwp_dist.data.format.joined import JoinedManifest
from rwp_dist.data.format.manifest import JOINED_NAME, Manifest


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("set") / "train")


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(written, tmp_path / "train"))


@pytest.fixture
def node(tmp_path: Path) -> Path:
    return tmp_path / "node"


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where the data sets are that were checked."""
    found, check = list[str](), checked._check

    def count(manifest: Manifest, *rest: object) -> JoinedManifest:
        found.append(manifest.location)
        return check(manifest, *rest)

    monkeypatch.setattr(checked, "_check", count)
    return found


def load(folder: Path | str, node: Path, num_classes: int = CLASSES) -> Dataset:
    return load_dataset([load_manifest(str(folder), folder=node)], num_classes, None, node)


def test_the_second_process_reads_neither_manifest_nor_indexes(
    folder: Path, node: Path, checks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(folder, node)
    monkeypatch.setattr(Manifest, "load", _never)
    second = load(folder, node)
    assert checks == [str(folder)]
    assert isinstance(second.manifests[0], JoinedManifest)
    assert np.array_equal(first.index, second.index) and first.id == second.id
    assert list(first.shards) == list(second.shards) and len(first.shards) == 7
    assert first.classes == second.classes and second.num_samples == NUM
    assert second.manifests[0].num_bytes == sum(tar.stat().st_size for tar in _tars(folder))


def _never(*_: object) -> None:
    raise AssertionError("the manifest was read")


def _tars(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.tar"))


CHANGES: dict[str, Callable[[Path], object]] = {
    "a shard is gone": lambda folder: _tars(folder)[3].unlink(),
    "a shard has another name": lambda folder: _tars(folder)[3].rename(folder / "x.tar"),
    "classes have other names": lambda folder: rename_classes(folder, *"abcde"),
    "the joined index is cut": lambda folder: (folder / JOINED_NAME).write_bytes(b"cut"),
    "the joined index is gone": lambda folder: (folder / JOINED_NAME).unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_has_changed_is_checked_again(
    folder: Path, node: Path, checks: list[str], change: str
) -> None:
    load(folder, node)
    CHANGES[change](folder)
    if "shard" in change:
        with pytest.raises(DataError, match="cannot be read"):
            load(folder, node)
    else:
        assert load(folder, node).classes.names == Manifest.load(folder).classes
    assert len(checks) == 2
    assert len(list(node.glob("*.json"))) <= 2


def test_of_notes_of_what_was_there_before_a_few_are_kept(folder: Path, node: Path) -> None:
    for number in range(checked.KEPT_NOTES + 3):
        (folder / f"{number}").touch()
        load(folder, node)
    assert len(list(node.glob("*.json"))) == checked.KEPT_NOTES


@pytest.mark.parametrize("why", ["none", "another's"])
def test_without_its_own_joined_index_the_node_keeps_one(
    folder: Path, node: Path, tmp_path: Path, checks: list[str], why: str
) -> None:
    known = load(folder, tmp_path / "other")
    (folder / JOINED_NAME).unlink()
    if why == "another's":
        other = write_set(tmp_path / "val" / "train", num=20)
        shutil.copy(other / JOINED_NAME, folder / JOINED_NAME)
    assert np.array_equal(load(folder, node).index, known.index)
    assert np.array_equal(load(folder, node).index, known.index)
    assert len(checks) == 2 and len(list(node.glob("*.samples"))) == 1


def test_a_node_that_keeps_nothing_checks_each_time(
    folder: Path, tmp_path: Path, checks: list[str]
) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("no folder")
    known = load(folder, tmp_path / "node")
    for _ in range(2):
        assert np.array_equal(load(folder, occupied / "node").index, known.index)
    assert len(checks) == 1 + 2 * 1


def test_labels_that_are_too_large_are_refused_although_they_were_checked(
    folder: Path, node: Path
) -> None:
    load(folder, node)
    with pytest.raises(ConfigError) as caught:
        load(folder, node, num_classes=CLASSES - 1)
    assert caught.value.key == "model.num_classes" and str(CLASSES) in caught.value.cure


def test_labels_that_are_replaced_after_the_check_are_found_at_first_use(
    folder: Path, node: Path
) -> None:
    load(folder, node)
    tar = _tars(folder)[2]
    data = tar.read_bytes()
    at = data.index(b".cls\0") // 512 * 512 + 512
    with tar.open("r+b") as file:  # in its place, so that the folder does not change
        file.seek(at)
        file.write(b"4" if data[at : at + 1] == b"3" else b"3")
    dataset = load(folder, node)
    dataset.rows_of(1)
    with pytest.raises(DataError, match="its labels are not those of its index"):
        dataset.rows_of(2)


def _open_at_once(folder: str, node: str) -> int:
    return int(load(folder, Path(node)).index["crc32"].astype(np.int64).sum())


def test_ranks_that_open_at_once_check_once(folder: Path, node: Path) -> None:
    sums = run_ranks(_open_at_once, 4, str(folder), str(node))
    assert len(set(sums)) == 1 and len(list(node.glob("*.json"))) == 1


def test_a_remote_data_set_is_one_download_of_its_joined_index(
    written: Path, tmp_path: Path, checks: list[str]
) -> None:
    known = load(written, tmp_path / "local")
    with FaultyServer(served(written)) as server:
        for _ in range(2):
            cache, node = cache_in(tmp_path), tmp_path / "node"
            manifest = load_manifest(server.url("/train"), folder=node)
            dataset = load_dataset([manifest], CLASSES, cache, node)
            assert np.array_equal(dataset.index, known.index) and dataset.id == known.id
        asked = [path for path, _ in server.requests if path.endswith((".npy", ".index"))]
    assert asked == [f"/train/{JOINED_NAME}"] and len(checks) == 2
